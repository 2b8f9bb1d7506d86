"""The action space: every route that a decision can take, as a product of four heads.

Invariant: a set of permitted actions is always a product of permitted choices, one set a head, so
it has a size, an order and a uniform distribution that can be written down exactly. Constraints
narrow the product; they never leave an odd shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ruvllm.errors import InvalidConfiguration, ModelUnavailable, UnknownTier

Choice = str | int | float

HEADS = ("tier", "context_tokens", "temperature", "top_p")
"""The order of the heads, in actions and in a checkpoint's rows."""


@dataclass(frozen=True, slots=True)
class Action:
    """One route: a tier of the profile, the context's budget in tokens, and sampling settings."""

    tier: str
    context_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class Arms:
    """The choices of each head. `tiers` are ordered from small to large, the others ascend.

    Raises InvalidConfiguration for a head that is empty, holds a choice twice, is out of order, or
    holds a value that no model takes.
    """

    tiers: tuple[str, ...]
    context_tokens: tuple[int, ...] = (1024, 2048, 4096)
    temperatures: tuple[float, ...] = (0.0, 0.3, 0.7)
    top_ps: tuple[float, ...] = (0.8, 0.95, 1.0)

    def __post_init__(self) -> None:
        # 1 and 1.0 are one choice and must have one label in the log: floats from here on.
        object.__setattr__(self, "temperatures", tuple(map(float, self.temperatures)))
        object.__setattr__(self, "top_ps", tuple(map(float, self.top_ps)))
        if not self.tiers or len(set(self.tiers)) < len(self.tiers):
            raise InvalidConfiguration(f"tiers are {self.tiers}: name each once, and one at least")
        _check_ascending("context_tokens", self.context_tokens, low=1, high=2**31 - 1)
        _check_ascending("temperatures", self.temperatures, low=0.0, high=2.0)
        _check_ascending("top_ps", self.top_ps, low=1e-6, high=1.0)

    @property
    def by_head(self) -> dict[str, tuple[Choice, ...]]:
        """Head -> its choices, in the order of `HEADS`."""
        return dict(zip(HEADS, (self.tiers, self.context_tokens, self.temperatures, self.top_ps), strict=True))

    @property
    def size(self) -> int:
        """How many joint actions there are."""
        return len(self.tiers) * len(self.context_tokens) * len(self.temperatures) * len(self.top_ps)

    def __contains__(self, action: object) -> bool:
        return (
            isinstance(action, Action)
            and action.tier in self.tiers
            and action.context_tokens in self.context_tokens
            and action.temperature in self.temperatures
            and action.top_p in self.top_ps
        )

    def __iter__(self) -> Iterator[Action]:
        """All joint actions; the last head changes fastest."""
        for tier, context, temperature, top_p in product(
            self.tiers, self.context_tokens, self.temperatures, self.top_ps
        ):
            yield Action(tier, context, temperature, top_p)

    def nth(self, index: int) -> Action:
        """The action at `index` of the order of iteration, 0 <= index < size."""
        index, top_p = divmod(index, len(self.top_ps))
        index, temperature = divmod(index, len(self.temperatures))
        tier, context = divmod(index, len(self.context_tokens))
        return Action(
            self.tiers[tier], self.context_tokens[context], self.temperatures[temperature], self.top_ps[top_p]
        )

    def permitted(
        self,
        *,
        available_tiers: Collection[str],
        allowed_tiers: Collection[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Arms:
        """The part that one request may take.

        `allowed_tiers` is what the asker allows (None: all), `available_tiers` what somebody serves
        now. A temperature or top_p that the user gave is the only choice of its head, whether it is
        an arm or not. Raises UnknownTier if no allowed tier is one of the profile, ModelUnavailable
        if none of the allowed ones is served.
        """
        if allowed_tiers is None and temperature is None and top_p is None and set(self.tiers) <= set(available_tiers):
            return self  # as most requests have it
        allowed = tuple(t for t in self.tiers if allowed_tiers is None or t in allowed_tiers)
        if not allowed:
            raise UnknownTier(f"allowed tiers are {_names(allowed_tiers or ())}; this profile has {_names(self.tiers)}")
        tiers = tuple(t for t in allowed if t in available_tiers)
        if not tiers:
            raise ModelUnavailable(
                f"permitted tiers are {_names(allowed)}; served now are {_names(available_tiers)}",
                hint="Allow another tier, or start a worker that serves one: `ruvllm status` shows who does.",
            )
        return replace(
            self,
            tiers=tiers,
            temperatures=self.temperatures if temperature is None else (temperature,),
            top_ps=self.top_ps if top_p is None else (top_p,),
        )

    def as_dict(self) -> dict[str, list[Choice]]:
        """Plain lists for JSON; `Arms.from_dict` reads them back."""
        return {
            "tiers": list(self.tiers),
            "context_tokens": list(self.context_tokens),
            "temperatures": list(self.temperatures),
            "top_ps": list(self.top_ps),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, list[Any]]) -> Arms:
        """Inverse of `as_dict`. Raises InvalidConfiguration or TypeError on what is not arms."""
        return cls(**{name: tuple(choices) for name, choices in fields.items()})


def _check_ascending(name: str, choices: tuple[float, ...], *, low: float, high: float) -> None:
    if not choices or list(choices) != sorted(set(choices)) or not low <= choices[0] <= choices[-1] <= high:
        raise InvalidConfiguration(f"{name} are {choices}: give ascending, different values from {low:g} to {high:g}")


def _names(tiers: Collection[str]) -> str:
    return ", ".join(sorted(tiers) if isinstance(tiers, set | frozenset) else tiers) or "none"
