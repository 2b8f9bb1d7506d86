"""How good an answer was: a quality from 0 to 1 with reasons, and which passages carry it.

Imports ruvllm.errors, numpy and `pool/` (its chat messages and choices); vectors are handed in. Start with
`item.py` (what is judged and what comes out), then `judge.py` (the cheap judge, and how a large model's
log odds join it), `signals.py` (what it looks at), `verdict.py` (what users say overrides it), `asking.py`
(what the large model is asked) and `fitting.py` (where `weights.json` comes from: `ruvllm eval judge --fit`).
"""
