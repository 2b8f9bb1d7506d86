"""What a training run is handed and what it hands back, as plain values: they cross to a child process."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_QUESTIONS = 20
"""Fewer judged questions than this say nothing about a ranker."""


@dataclass(frozen=True)
class Lesson:
    """A judged question: its packed candidate graph, and what credit each candidate deserves.

    `question` names it: askings of the same question are held out together.
    """

    graph: bytes
    credit: tuple[float, ...]
    question: str = ""


@dataclass(frozen=True)
class Result:
    """`parameters`: packed, None if the gate held them back. `gain`, `error`: in credit among the first five.

    `examples` of the lessons could be read.
    """

    parameters: bytes | None
    passed: bool
    gain: float
    error: float
    questions: int
    examples: int
