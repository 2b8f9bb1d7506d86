"""What the judge has learnt: a logistic over signals, its calibration, and how log odds join it.

`weights.json` beside this module is made by `ruvllm eval judge --fit` from labelled pairs and never by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import orjson

from ruvllm.errors import ModelUnavailable
from ruvllm.models.judge.logistic import Logistic
from ruvllm.models.judge.signals import SIGNALS

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Weights:
    """`calibration` is Platt's (1999): success = sigmoid(calibration(cheap logit)).

    `joined`: (calibrated cheap logit, log odds of yes) -> logit, fitted to the model named `joined_with`.
    The costly judge is asked where `band[0]` < success < `band[1]`.
    """

    cheap: Logistic
    calibration: Logistic
    joined: Logistic
    joined_with: str
    band: tuple[float, float]
    fitted_on: dict[str, Any]

    def to_json(self) -> bytes:
        state = {
            "version": VERSION,
            "signals": list(SIGNALS),
            "cheap": self.cheap.state(),
            "calibration": self.calibration.state(),
            "joined": self.joined.state(),
            "joined_with": self.joined_with,
            "band": list(self.band),
            "fitted_on": self.fitted_on,
        }
        return orjson.dumps(state, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> Weights:
        """Raises ModelUnavailable if these are no weights of this version."""
        try:
            state = orjson.loads(raw)
            if (state["version"], state["signals"]) != (VERSION, list(SIGNALS)):
                raise ValueError(f"version {state['version']} with signals {state['signals']}")
            low, high = state["band"]
            return cls(
                cheap=Logistic.load(state["cheap"]),
                calibration=Logistic.load(state["calibration"]),
                joined=Logistic.load(state["joined"]),
                joined_with=str(state["joined_with"]),
                band=(float(low), float(high)),
                fitted_on=dict(state["fitted_on"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(
                f"these are not the judge's weights: {error!r}", hint="`ruvllm eval judge --fit` makes them anew."
            ) from error


def packaged_weights() -> Weights:
    """The weights that come with the package."""
    return Weights.from_json(files("ruvllm.models.judge").joinpath("weights.json").read_bytes())
