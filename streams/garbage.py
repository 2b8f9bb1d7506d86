"""Python's cyclic garbage collector while much is loaded that stays.

It looks at every object again and again while they become more, for cycles that a fold does not make: a third of the
time of a start. What was loaded is exempt from its looks afterwards, so that they hold up no search.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection within; what is there at the end is never looked at again. It is the whole process's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
