"""Which model answers, with how much context and which sampling: the control circuit.

This package computes a decision from numbers and keeps every probability that it drew with; it
knows no events and no clock. `features.py` says what the router sees (128 numbers, counted by
`surface.py` and `signals.py`), `arms.py` what it may choose, `fastgrnn.py` is the recurrent cell,
`checkpoint.py` the learned thing whole, and `policy.py` makes of scores, constraints and exploration
one action with an honest probability. Start with `policy.py`. Training (Loop B) reads the logged
decisions and publishes new checkpoints; nothing here changes a weight.
"""
