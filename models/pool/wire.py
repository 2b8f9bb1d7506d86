"""What a pool process and its child say to each other: one JSON object a line, both ways.

The parent sends jobs and choices; the child first says `ready` (or `failed`), then answers each with a
`completion` or `log_odds`, or an `error`, which is one of ours by its code. Both ends live in one version of the
code, so nothing here evolves.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import orjson

from ruvllm.errors import DeadlineExceeded, ModelUnavailable, PromptTooLong, RuvllmError
from ruvllm.models.pool.job import Choice, Completion, Job, Segment

MAX_LINE_BYTES: Final = 32 << 20

_ERRORS: Final = {error.code: error for error in (PromptTooLong, ModelUnavailable, DeadlineExceeded)}


def job_line(number: int, job: Job | Choice) -> bytes:
    return _line({"job": number, **dataclasses.asdict(job)})


def read_job(line: bytes) -> tuple[int, Job | Choice]:
    """What is asked: a choice has spellings of yes. Raises ValueError or KeyError for a line that is no job."""
    raw: dict[str, Any] = orjson.loads(line)
    number = int(raw.pop("job"))
    raw["prompt"] = tuple(Segment(**segment) for segment in raw["prompt"])
    if "yes" in raw:
        raw["yes"], raw["no"] = tuple(raw["yes"]), tuple(raw["no"])
        return number, Choice(**raw)
    raw["stop"] = tuple(raw["stop"])
    return number, Job(**raw)


def ready_line(facts: Any) -> bytes:
    """`facts`: the engine's dataclass about the loaded file."""
    return _line({"ready": dataclasses.asdict(facts)})


def failed_line(error: RuvllmError) -> bytes:
    return _line({"failed": _error(error)})


def completion_line(number: int, completion: Completion) -> bytes:
    return _line({"job": number, "completion": dataclasses.asdict(completion)})


def log_odds_line(number: int, log_odds: float) -> bytes:
    return _line({"job": number, "log_odds": log_odds})


def error_line(number: int, error: RuvllmError) -> bytes:
    return _line({"job": number, "error": _error(error)})


def read_ready(line: bytes) -> dict[str, Any]:
    """The facts of a ready child. Raises the error that a failed one reported; ValueError."""
    raw = _object(line)
    if "failed" in raw:
        raise _raised(raw["failed"])
    facts: dict[str, Any] = raw["ready"]
    return facts


def read_answer(line: bytes, number: int) -> Completion | float:
    """The answer to job `number`: a completion, or a choice's log odds.

    Raises its error; ValueError if it is not that job's answer.
    """
    raw = _object(line)
    if raw.get("job") != number:
        raise ValueError(f"an answer to job {raw.get('job')!r}, not to {number}")
    if "error" in raw:
        raise _raised(raw["error"])
    if "log_odds" in raw:
        return float(raw["log_odds"])
    return Completion(**raw["completion"])


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    raw = orjson.loads(line)
    if not isinstance(raw, dict):
        raise ValueError("a line that is no object")
    return raw


def _error(error: RuvllmError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _raised(raw: dict[str, str]) -> RuvllmError:
    return _ERRORS.get(raw["code"], ModelUnavailable)(raw["message"], hint=raw["hint"])
