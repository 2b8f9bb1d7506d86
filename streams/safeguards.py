"""Which safeguards are off in this process: none, unless it belongs to an installation of the fault harness.

A harness that finds nothing proves something only if it would have found the harm. So it may run workers
without the fence (an owner's producer is named after its process, and fences nobody) or without the ledger
(what was delivered is committed, done or not). Two things have to agree for that: the variable in a worker's
environment and a file in its home folder that only the harness writes. Alone the variable is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import structlog

log = structlog.get_logger(__name__)

Safeguard = Literal["fence", "ledger"]
SAFEGUARDS: tuple[str, ...] = get_args(Safeguard)
VARIABLE = "RUVLLM_HARNESS_WITHOUT"
PERMIT = "of-the-fault-harness"

_off: set[str] = set()


def permit(home: Path) -> None:
    """Let workers of this home be run without safeguards."""
    (home / PERMIT).touch()


def take_off(environ: Mapping[str, str], home: Path) -> None:
    """Do without what the environment names, if this home is the harness's; else say that it is refused."""
    wanted = set(environ.get(VARIABLE, "").split(",")) - {""}
    allowed = wanted <= set(SAFEGUARDS) and (home / PERMIT).is_file()
    if wanted and not allowed:
        log.warning("safeguards_stay_on", variable=VARIABLE, value=environ[VARIABLE], home=str(home))
    _off.clear()
    _off.update(wanted if allowed else ())
    if _off:
        log.warning("safeguards_off", without=sorted(_off))


def is_off(name: Safeguard) -> bool:
    return name in _off
