"""What is known: passages with vectors, edges with strengths, and snapshots of them.

It may import numpy, hnswlib, orjson, structlog and `ruvllm.errors`; it knows no events: agents
translate those into the verbs of `store.Memory`. Start with `store.py`; then `vector_index.py` (who is
near), `edge_strength.py` (the formula of an edge's weight), `snapshot.py` (how it outlives a process).
"""
