"""Generation: prompts, and the pool of models that continue them, each in a process of its own.

Imports ruvllm.errors only; llama.cpp in `llama_engine.py` alone, which runs in the child. Start with
`job.py` (the port), then `prompt.py` (what a model is asked), `pool.py` (who answers), `process.py`
and `child.py` (how a model may die without harm). `echo.py` stands in where no model is wanted.
"""
