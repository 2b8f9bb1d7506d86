"""Named places at which the fault harness may kill or freeze this process; nothing happens otherwise.

Random kills alone prove little: the window between a transaction's last send and its commit is two
milliseconds wide. RUVLLM_FAULT=`<point>:<n>:<signal>` sends a worker the signal (KILL or STOP)
the n-th time it reaches a point of `POINTS`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from ruvllm.errors import InvalidConfiguration

POINTS = {
    "worked": "a stage has computed its outputs and has not sent them",
    "handled": "an owner has computed effects and has not begun their transaction",
    "sent": "an owner has sent all records of a transaction and has not committed it",
    "committed": "an owner has committed and has not acknowledged",
    "passed": "a stage has written its outputs and has not acknowledged",
    "offsets": "a consumer is about to commit the offsets of what is acknowledged",
}

VARIABLE = "RUVLLM_FAULT"


class FaultPoint:
    """A countdown to one signal."""

    def __init__(self, spec: str) -> None:
        try:
            self.point, count, name = spec.split(":")
            self._left = int(count)
            self._signal = signal.Signals[f"SIG{name}"]
        except (ValueError, KeyError) as error:
            raise InvalidConfiguration(f"{VARIABLE}={spec!r} is not <point>:<n>:<signal>") from error
        if self.point not in POINTS:
            raise InvalidConfiguration(f"{VARIABLE}={spec!r}: the points are {', '.join(POINTS)}")

    def reach(self, point: str) -> None:
        if point == self.point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


_armed: list[FaultPoint] = []


def arm(environ: Mapping[str, str]) -> None:
    """Arm this process as its environment says, or not. Raises InvalidConfiguration for what is no fault."""
    _armed[:] = [FaultPoint(environ[VARIABLE])] if VARIABLE in environ else []


def reach(point: str) -> None:
    """Say that this process has come to `point`."""
    for fault in _armed:
        fault.reach(point)


def fault_armed() -> bool:
    """Whether this process is to die or freeze somewhere."""
    return bool(_armed)
