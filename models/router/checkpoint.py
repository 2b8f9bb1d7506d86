"""What a router is: an immutable, content-addressed checkpoint that turns features into scores.

Invariant: a `Checkpoint` that exists can be served. Its shapes, values, arms and features version
were checked, its arrays are read-only, and its id is the hash of all that a prediction depends on.
Training lives elsewhere: nothing here can change a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from ruvllm.errors import InvalidConfiguration, ModelUnavailable, WrongHash
from ruvllm.models.router.arms import Arms
from ruvllm.models.router.fastgrnn import HIDDEN, RANK, Cell, Float32s, Parameters, sigmoid
from ruvllm.models.router.features import FEATURES, FEATURES_VERSION

INPUTS: Final = len(FEATURES)
FORMAT_VERSION: Final = 1
"""Of the file and of the bytes that the id is made from."""

_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile),  # no such file, not one of ours, cut off
    *(ValueError, KeyError, TypeError),  # an entry missing, pickled, or of another form
    InvalidConfiguration,  # arms that make no sense
)

UNTRAINED_CONFIDENCE: Final = -4.0
"""A logit, sigmoid 0.018: an untrained router knows that it knows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a checkpoint says of one request, before any constraint.

    `hidden` is (64,) float32; `logits` head -> one score for each choice in the arms' order;
    `confidence` is in 0..1.
    """

    hidden: Float32s
    logits: dict[str, list[float]]
    confidence: float

    @property
    def probabilities(self) -> dict[str, list[float]]:
        """Softmax of each head's logits, in the arms' order."""
        return {head: softmax(scores) for head, scores in self.logits.items()}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Parameters, the arms that they were made for, the features they read, and where they came from.

    Raises ModelUnavailable for parameters of a wrong shape or with values that are not finite, and
    for a features version that this program does not compute. Equal ids mean equal checkpoints.
    """

    arms: Arms
    parameters: Parameters
    features_version: int = FEATURES_VERSION
    parent: str | None = None

    def __post_init__(self) -> None:
        if self.features_version != FEATURES_VERSION:
            raise _unusable(
                f"the checkpoint reads features version {self.features_version}, "
                f"this program computes version {FEATURES_VERSION}"
            )
        checked = {}
        for name, shape in _shapes(self.arms).items():
            array = np.array(getattr(self.parameters, name), dtype="<f4", order="C")
            if array.shape != shape:
                raise _unusable(f"parameter `{name}` has shape {array.shape}, these arms need {shape}")
            if not np.isfinite(array).all():
                raise _unusable(f"parameter `{name}` holds a value that is not finite")
            array.flags.writeable = False
            checked[name] = array
        object.__setattr__(self, "parameters", Parameters(**checked))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """`router-` and 24 hexadecimal digits (96 bits of BLAKE2b) over header and parameters."""
        digest = hashlib.blake2b(self._header(), digest_size=12)
        for name in _shapes(self.arms):
            digest.update(getattr(self.parameters, name).tobytes())
        return f"router-{digest.hexdigest()}"

    @cached_property
    def cell(self) -> Cell:
        return Cell(self.parameters)

    @cached_property
    def _columns(self) -> tuple[tuple[str, int, int], ...]:
        """(head, first row, row after the last) of each head."""
        columns, start = [], 0
        for head, choices in self.arms.by_head.items():
            columns.append((head, start, start + len(choices)))
            start += len(choices)
        return tuple(columns)

    def forward(self, features: Float32s, hidden: Float32s | None = None) -> Prediction:
        """One step: (128,) features and the session's (64,) state, None at its start.

        The state must come from this checkpoint: one of another means nothing here. Raises
        InvalidConfiguration for arrays of another shape or with values that are not finite.
        """
        before = np.zeros(HIDDEN, dtype=np.float32) if hidden is None else hidden
        for name, array, length in (("features", features, INPUTS), ("hidden", before, HIDDEN)):
            # A sum is finite only if all of its terms are; 0 * inf is NaN as well.
            if array.shape != (length,) or not math.isfinite(array @ array):
                raise InvalidConfiguration(
                    f"the router's {name} have shape {array.shape}; it needs ({length},) finite numbers"
                )
        after = self.cell.step(features.astype(np.float32, copy=False), before.astype(np.float32, copy=False))
        after.flags.writeable = False
        scores = (self.parameters.heads @ after + self.parameters.head_bias).tolist()
        return Prediction(
            hidden=after,
            logits={head: scores[start:stop] for head, start, stop in self._columns},
            confidence=sigmoid(scores[-1]),
        )

    @classmethod
    def initial(cls, arms: Arms, seed: int) -> Checkpoint:
        """An untrained checkpoint: small random recurrence, nearly even heads, no confidence.

        zeta = 1, nu = -4, b_z = b_h = 1 and deviations of 0.1 are the starting values that the
        cell's authors use.
        """
        random = np.random.Generator(np.random.PCG64(seed))

        def draw(*shape: int, deviation: float) -> Float32s:
            return (random.standard_normal(shape) * deviation).astype(np.float32)

        rows = _shapes(arms)["head_bias"][0]
        heads = draw(rows, HIDDEN, deviation=0.01)
        heads[-1] = 0  # the same low confidence whatever it sees
        head_bias = np.zeros(rows, dtype=np.float32)
        head_bias[-1] = UNTRAINED_CONFIDENCE
        parameters = Parameters(
            w=draw(HIDDEN, INPUTS, deviation=0.1),
            u1=draw(HIDDEN, RANK, deviation=0.1),
            u2=draw(HIDDEN, RANK, deviation=0.1),
            b_z=np.ones(HIDDEN, dtype=np.float32),
            b_h=np.ones(HIDDEN, dtype=np.float32),
            zeta=np.array(1.0, dtype=np.float32),
            nu=np.array(-4.0, dtype=np.float32),
            heads=heads,
            head_bias=head_bias,
        )
        return cls(arms, parameters)

    def save(self, path: Path) -> None:
        """Write a .npz without pickle. The name appears only when the file is whole."""
        arrays = {name: getattr(self.parameters, name) for name in _shapes(self.arms)}
        header = np.frombuffer(self._header(), dtype=np.uint8)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(file, header=header, id=np.array(self.id), **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what `save` wrote.

        Raises ModelUnavailable if the file is missing, no checkpoint, of another version or of
        wrong shapes, and WrongHash if its content is not what its id says.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes())
                if header["format"] != FORMAT_VERSION:
                    raise _unusable(
                        f"{path} has checkpoint format {header['format']}, this program reads {FORMAT_VERSION}"
                    )
                loaded = cls(
                    arms=Arms.from_dict(header["arms"]),
                    parameters=Parameters(**{f.name: file[f.name] for f in fields(Parameters)}),
                    features_version=header["features_version"],
                    parent=header["parent"],
                )
                named = str(file["id"])
        except _UNREADABLE as error:
            raise _unusable(f"{path} is not a router checkpoint: {error!r}") from error
        if loaded.id != named:
            raise WrongHash(
                f"{path} says that it is {named}, its content is {loaded.id}",
                hint="The file was changed or damaged: restore it, or go back to the checkpoint before.",
            )
        return loaded

    def _header(self) -> bytes:
        return json.dumps(
            {
                "format": FORMAT_VERSION,
                "arms": self.arms.as_dict(),
                "features_version": self.features_version,
                "parent": self.parent,
            },
            sort_keys=True,
            separators=(",", ":"),
        ).encode()


def softmax(logits: Sequence[float]) -> list[float]:
    """Non-negative, with sum 1; the largest logit is taken off first, so that nothing overflows."""
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _shapes(arms: Arms) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape, in the order in which the id reads them."""
    rows = sum(len(choices) for choices in arms.by_head.values()) + 1
    return {
        "w": (HIDDEN, INPUTS),
        "u1": (HIDDEN, RANK),
        "u2": (HIDDEN, RANK),
        "b_z": (HIDDEN,),
        "b_h": (HIDDEN,),
        "zeta": (),
        "nu": (),
        "heads": (rows, HIDDEN),
        "head_bias": (rows,),
    }


def _unusable(message: str) -> ModelUnavailable:
    return ModelUnavailable(message, hint="Use a checkpoint that this version wrote, or start from a new one.")
