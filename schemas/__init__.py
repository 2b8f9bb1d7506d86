"""What travels: commands (imperative), events (past tense), and how they become bytes.

This room imports pydantic, orjson and numpy, and nothing of ours but `ruvllm.errors`. It knows no
Kafka, no models, no clock. Start with `request.py` (what users send and get), then `flow.py` (what
the stages hand on), then `memory.py` (what learned state is folded from). `wire.py` turns events
into bytes and headers and back; the bytes of each version are kept in `tests/unit/snapshots/`.
"""
