"""How it runs: the one room that acts. Topics, consumer groups, guards, owners, processes, the CLI.

The flow stands once, as data, in `topology.py`: start there. `guard.py` is how a record is consumed
without loss, `owner.py` how an effect happens exactly once, `wiring.py` where models meet stages,
`serial.py` the same graph in one process without Kafka. Only here are faust, mode and aiokafka known.
"""
