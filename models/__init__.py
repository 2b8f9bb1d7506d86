"""What learns and computes: embedding, memory/, router/, pool/ (generation), chunks.

This room knows arrays and its own dataclasses. It imports nothing of ours but `ruvllm.errors`: no
events, no Kafka, no clock, no environment. Time, randomness and paths are handed in. Start with
`memory/store.py` (what is known), `router/policy.py` (which model answers), `pool/pool.py` (who
generates).
"""
