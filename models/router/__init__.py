"""Which model answers, with how much context and which sampling: the control circuit.

Start with `policy.py`: of what a checkpoint expects, constraints and exploration it makes one action with an honest
probability; `objective.py` says what an action is worth.

- What is seen: `features.py` (128 numbers, counted by `surface.py` and `signals.py`), `past_outcomes.py` (what became
  of questions like this one). What may be chosen: `arms.py`, `rules.py`.
- What was learnt: `checkpoint.py`, immutable, with the recurrent cell of `fastgrnn.py`. Serving needs no torch.
- Learning, in a child process: `run.py` (one gated run over `answer.py`s), `fitting.py`, `training.py`, `elastic.py`,
  `reservoir.py`, `experience.py`; `off_policy.py` values a policy that the log's was not.
- Beside it: `learner.py` is what `fastgrnn_learner.py` and the `baselines.py` have in common.

The package knows numbers; no events and no clock.
"""
