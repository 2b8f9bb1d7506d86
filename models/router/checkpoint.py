"""What a router is: an immutable, content-addressed checkpoint that turns features into scores.

Invariant: a `Checkpoint` that exists can be served. Its shapes, values, arms and features version
were checked, its arrays are read-only, and its id is the hash of all that a prediction depends on.
Training lives elsewhere: nothing here can change a weight.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np

from ruvllm.errors import InvalidConfiguration, ModelUnavailable, WrongHash
from ruvllm.models.router.arms import Arms
from ruvllm.models.router.fastgrnn import HIDDEN, RANK, Cell, Float32s, Parameters, sigmoid
from ruvllm.models.router.features import FEATURES, FEATURES_VERSION, PAST, PAST_TIERS

INPUTS: Final = len(FEATURES)
FORMAT_VERSION: Final = 2
"""Of what is packed and of the bytes that the id is made from."""
LONGEST_LOG_S: Final = 12.0
"""Of a predicted latency: exp(12) seconds are two days."""

_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),  # not one of ours, cut off
    *(ValueError, KeyError, TypeError),  # an entry missing, pickled, or of another form
    *(RuntimeError, tokenize.TokenError),  # a damaged directory or array header
    InvalidConfiguration,  # arms that make no sense
)

PAST_SLOPE: Final = 2.0
"""Of logits over past qualities 2 q - 1 before training: where odds are even, an estimate is taken as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a checkpoint says of one request, before any constraint.

    `hidden` is (64,) float32. `logits`: head -> for each choice, in the arms' order, what it adds to the logit
    of the answer's quality. `latency_s`: by tier. `familiarity`, 0 to 1: how far the request is like what the
    checkpoint was trained on; 0 for an untrained one.
    """

    hidden: Float32s
    logits: dict[str, list[float]]
    latency_s: list[float]
    familiarity: float
    calibration: tuple[float, float]

    @property
    def probabilities(self) -> dict[str, list[float]]:
        """Softmax of each head's logits, in the arms' order."""
        return {head: softmax(scores) for head, scores in self.logits.items()}

    def confidence(self, logit: float) -> float:
        """That an answer of this logit is good, 0 to 1: calibrated, and less where nothing alike was seen."""
        slope, intercept = self.calibration
        return self.familiarity * sigmoid(slope * logit + intercept)


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
            if name == "spread" and not (array > 0).all():
                raise _unusable("parameter `spread` holds a value that is not above 0")
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
            if array.shape != (length,) or not math.isfinite(array.dot(array)):
                raise InvalidConfiguration(
                    f"the router's {name} have shape {array.shape}; it needs ({length},) finite numbers"
                )
        after = self.cell.step(features.astype(np.float32, copy=False), before.astype(np.float32, copy=False))
        after.flags.writeable = False
        rows, bias = self._readout
        tiers = len(self.arms.tiers)
        scores = rows.dot(after)
        scores += bias
        scores[:tiers] += self.parameters.past.dot(features[PAST])
        values = scores.tolist()
        return Prediction(
            hidden=after,
            logits={head: values[start:stop] for head, start, stop in self._columns},
            latency_s=[math.exp(min(log_s, LONGEST_LOG_S)) for log_s in values[-tiers:]],
            familiarity=self._familiarity(features),
            calibration=self._calibration,
        )

    def after(self, turns: Sequence[Float32s]) -> Float32s:
        """The hidden state, (64,), of a session that had turns of these (128,) features, the oldest first."""
        hidden = np.zeros(HIDDEN, dtype=np.float32)
        for features in turns:
            hidden = self.cell.step(features, hidden)
        return hidden

    def _familiarity(self, features: Float32s) -> float:
        """exp(1 - d / reach) beyond the reach, d the mean squared deviation from what was trained on; within it 1."""
        if self._reach <= 0.0:
            return 0.0
        deviation = (features - self.parameters.centre) * self._per_spread
        return math.exp(min(0.0, 1.0 - float(deviation.dot(deviation)) / (INPUTS * self._reach)))

    @cached_property
    def tried(self) -> dict[str, list[bool]]:
        """Head -> whether each choice was tried often enough to be taken, in the arms' order."""
        often = (self.parameters.tried > 0).tolist()
        return {head: often[start:stop] for head, start, stop in self._columns}

    @cached_property
    def _readout(self) -> tuple[Float32s, Float32s]:
        """What reads the hidden state, in one product: the heads' rows and biases, then the latencies'."""
        given = self.parameters
        return np.concatenate((given.heads, given.latency)), np.concatenate((given.head_bias, given.latency_bias))

    @cached_property
    def _per_spread(self) -> Float32s:
        return 1.0 / self.parameters.spread

    @cached_property
    def _reach(self) -> float:
        return float(self.parameters.reach)

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        slope, intercept = self.parameters.calibration.tolist()
        return slope, intercept

    @classmethod
    def initial(cls, arms: Arms, seed: int, costs: Sequence[float] | None = None) -> Checkpoint:
        """An untrained checkpoint: small random recurrence, the past taken as it is, no confidence.

        `costs`: what a token of each tier costs, small to large; none: all the same. A context costs by its size.

        zeta = 1, nu = -4, b_z = b_h = 1 and deviations of 0.1 are the starting values that the
        cell's authors use.
        """
        random = np.random.Generator(np.random.PCG64(seed))

        def draw(*shape: int, deviation: float) -> Float32s:
            return (random.standard_normal(shape) * deviation).astype(np.float32)

        tiers, contexts = len(arms.tiers), len(arms.context_tokens)
        price = np.outer(np.ones(tiers) if costs is None else costs, arms.context_tokens)
        parameters = Parameters(
            w=draw(HIDDEN, INPUTS, deviation=0.1),
            u1=draw(HIDDEN, RANK, deviation=0.1),
            u2=draw(HIDDEN, RANK, deviation=0.1),
            b_z=np.ones(HIDDEN, dtype=np.float32),
            b_h=np.ones(HIDDEN, dtype=np.float32),
            zeta=np.array(1.0, dtype=np.float32),
            nu=np.array(-4.0, dtype=np.float32),
            heads=np.zeros((_shapes(arms)["head_bias"][0], HIDDEN), dtype=np.float32),
            head_bias=np.zeros(_shapes(arms)["head_bias"], dtype=np.float32),
            tried=np.ones(_shapes(arms)["head_bias"], dtype=np.float32),
            past=PAST_SLOPE * np.eye(tiers, PAST_TIERS, dtype=np.float32),
            latency=np.zeros((tiers, HIDDEN), dtype=np.float32),
            latency_bias=np.zeros(tiers, dtype=np.float32),
            costs=(price / price.max()).astype(np.float32).reshape(tiers, contexts),
            centre=np.zeros(INPUTS, dtype=np.float32),
            spread=np.ones(INPUTS, dtype=np.float32),
            reach=np.array(0.0, dtype=np.float32),
            calibration=np.array([1.0, 0.0], dtype=np.float32),
        )
        return cls(arms, parameters)

    def packed(self) -> bytes:
        """As .npz without pickle: what travels in the log."""
        arrays = {name: getattr(self.parameters, name) for name in _shapes(self.arms)}
        out = io.BytesIO()
        np.savez_compressed(out, header=np.frombuffer(self._header(), np.uint8), id=np.array(self.id), **arrays)
        return out.getvalue()

    @classmethod
    def unpacked(cls, raw: bytes) -> Checkpoint:
        """Read what `packed` wrote.

        Raises ModelUnavailable if it is no checkpoint, of another version or of wrong shapes, and WrongHash if its
        content is not what its id says.
        """
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes())
                if header["format"] != FORMAT_VERSION:
                    raise _unusable(f"checkpoint format {header['format']}; this program reads {FORMAT_VERSION}")
                loaded = cls(
                    arms=Arms.from_dict(header["arms"]),
                    parameters=Parameters(**{f.name: file[f.name] for f in fields(Parameters)}),
                    features_version=header["features_version"],
                    parent=header["parent"],
                )
                named = str(file["id"])
        except _UNREADABLE as error:
            raise _unusable(f"these {len(raw)} bytes are not a router checkpoint: {error!r}") from error
        if loaded.id != named:
            raise WrongHash(
                f"a router checkpoint says that it is {named}, its content is {loaded.id}",
                hint="It was changed or damaged: go back to the checkpoint before with `ruvllm router rollback`.",
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
    rows, tiers = sum(len(choices) for choices in arms.by_head.values()), len(arms.tiers)
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
        "tried": (rows,),
        "past": (tiers, PAST_TIERS),
        "latency": (tiers, HIDDEN),
        "latency_bias": (tiers,),
        "costs": (tiers, len(arms.context_tokens)),
        "centre": (INPUTS,),
        "spread": (INPUTS,),
        "reach": (),
        "calibration": (2,),
    }


def _unusable(message: str) -> ModelUnavailable:
    return ModelUnavailable(message, hint="Use a checkpoint that this version wrote, or start from a new one.")
