"""One training run of the ranker, from lessons to a gated checkpoint. It needs torch and runs in a child process.

Invariant: the same lessons and seed give the same bytes on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.gate import gate
from ruvllm.models.attention.graph_attention import Shape
from ruvllm.models.attention.lesson import Lesson
from ruvllm.models.attention.packing import pack_parameters, unpack_graph
from ruvllm.models.attention.training import Example, Schedule, train
from ruvllm.models.learning_run import Result


def run(lessons: Sequence[Lesson], seed: int, _parent: bytes | None = None) -> Result:
    """Train behind the gate, on one thread: results must not hang on how many cores there are.

    It starts from scratch, whatever served before.
    """
    torch.set_num_threads(1)
    examples, names = [], []
    for place, lesson in enumerate(lessons):
        try:
            graph = unpack_graph(lesson.graph)
        except InvalidRequest:  # damaged: it teaches nothing, and no run is to fail of it
            continue
        examples.append(Example(graph, np.array(lesson.credit, np.float32)))
        names.append(lesson.question or str(place))
    fit = partial(train, seed=seed)
    verdict = gate(examples, fit, seed=seed, questions=names)
    parameters = pack_parameters(fit(examples), Shape()) if verdict.passed else None
    return Result(parameters, verdict.passed, verdict.gain, verdict.error, verdict.questions, len(examples))


def configuration() -> dict[str, float]:
    """What a run's result depends on beside its lessons and seed."""
    return {name: float(value) for name, value in {**vars(Schedule()), **vars(Shape())}.items()}
