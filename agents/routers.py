"""Which router serves: the fold of a learner's events. And what the next one learns from: routed, judged answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import structlog

from ruvllm.errors import InvalidConfiguration, RuvllmError, WrongHash
from ruvllm.models.learning_run import Result
from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.features import FEATURES, FEATURES_VERSION
from ruvllm.models.router.policy import Router
from ruvllm.models.router.reservoir import Reservoir
from ruvllm.models.router.rules import Rules
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction, Route
from ruvllm.schemas.outcome import Judged
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, Learner, TrainingRecorded

log = structlog.get_logger(__name__)

CHECKPOINTS_KEPT = 16


class Routers:
    """The last choice of the router's learner, over the router that a process starts with.

    A checkpoint of other arms or features is passed over: the untrained one serves then.
    """

    def __init__(self, untrained: Router) -> None:
        self._untrained = untrained
        self._current = untrained
        self._published: dict[str, bytes] = {}
        self.chosen: list[CheckpointChosen] = []
        self.runs: list[TrainingRecorded] = []

    def apply(self, event: Event) -> None:
        """Fold one event. Other events, and those of other learners, change nothing."""
        if getattr(event, "learner", None) != "router":
            return
        if isinstance(event, TrainingRecorded):
            self.runs.append(event)
        elif isinstance(event, CheckpointPublished):
            self._published[event.checkpoint] = event.parameters
            while len(self._published) > CHECKPOINTS_KEPT:
                del self._published[next(iter(self._published))]
        elif isinstance(event, CheckpointChosen):
            self.chosen.append(event)
            self._current = self._load(event.checkpoint)

    def current(self) -> Router:
        return self._current

    @property
    def last_run(self) -> TrainingRecorded | None:
        return self.runs[-1] if self.runs else None

    @property
    def serving(self) -> str | None:
        """The trained checkpoint that routes; None for the untrained one."""
        name = self._current.checkpoint.id
        return name if name in self._published else None

    def packed(self, checkpoint: str | None) -> bytes | None:
        """A published checkpoint's bytes; None for the untrained one or one that is no longer kept."""
        return self._published.get(checkpoint or "")

    def _load(self, checkpoint: str | None) -> Router:
        raw = self._published.get(checkpoint or "")
        if raw is None:
            return self._untrained
        try:
            unpacked = Checkpoint.unpacked(raw)
            if unpacked.id != checkpoint:
                raise WrongHash(f"published as {checkpoint} it is {unpacked.id}", hint="Go back to another one.")
            return self._untrained.with_checkpoint(unpacked)
        except RuvllmError as error:
            log.warning("router_passed_over", checkpoint=checkpoint, reason=error.message)
            return self._untrained


class RouterCourse:
    """Routed and judged answers: the newest `recent` sessions and, of those before, a uniform sample of as many.

    First all outcomes are told, then the interactions that they are of. An answer whose route was not drawn by a
    logged probability, or was routed by other features, teaches nothing.
    """

    learner: ClassVar[Learner] = "router"
    counted: ClassVar[str] = Judged.topic
    kinds: ClassVar[tuple[type[Event], ...]] = (Judged, Interaction)
    retires: ClassVar[bool] = False
    """A run that is held back leaves in place what serves."""

    def __init__(self, rules: Rules, *, recent: int) -> None:
        self._rules = rules
        self._recent = recent
        self._outcomes: dict[str, Judged] = {}
        self._answers: dict[str, tuple[float, Answer]] = {}

    def take(self, event: Event) -> None:
        """Of several verdicts on one answer the last counts."""
        if isinstance(event, Judged):
            known = self._outcomes.get(event.interaction_id)
            if known is None or event.revision > known.revision:
                self._outcomes[event.interaction_id] = event
        elif isinstance(event, Interaction):
            answer = self._answer(event)
            if answer is not None:
                self._answers[event.interaction_id] = (event.time.timestamp(), answer)

    def lessons(self) -> Sequence[Answer]:
        """In canonical order: by time, then id."""
        order = sorted(self._answers, key=lambda interaction: (self._answers[interaction][0], interaction))
        sessions: dict[str, list[Answer]] = {}
        for interaction in order:
            answer = self._answers[interaction][1]
            sessions.setdefault(answer.session, []).append(answer)
        names = list(sessions)
        older: Reservoir[None] = Reservoir(self._recent)
        for name in names[: -self._recent]:
            older.add(name, None)
        kept = {name for name, _ in older.items()} | set(names[-self._recent :])
        return [answer for name in names if name in kept for answer in sessions[name]]

    def job(self) -> tuple[Callable[..., Result], tuple[object, ...]]:
        """What a child process runs on the lessons, seed and parent; and what it is handed beside them.

        Raises ModuleNotFoundError without torch.
        """
        from ruvllm.models.router.run import run  # noqa: PLC0415  # torch

        return run, (self._rules,)

    def configuration(self) -> dict[str, float]:
        from ruvllm.models.router.run import configuration  # noqa: PLC0415  # torch

        return configuration()

    def _answer(self, event: Interaction) -> Answer | None:
        outcome, route, generation = self._outcomes.get(event.interaction_id), event.route, event.generation
        if outcome is None or outcome.retraction is not None or route is None or generation is None:
            return None
        if route.features_version != FEATURES_VERSION:
            return None
        arms = self._rules.arms
        if route.tier not in arms.tiers or route.context_tokens not in arms.context_tokens:
            return None
        try:
            propensity, permitted = propensity_of_pair(route), _permitted(route, arms)
        except (KeyError, ValueError, InvalidConfiguration):  # a head or a marginal is missing
            return None
        if route.features.shape != (len(FEATURES),):
            return None
        usage = generation.usage
        tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        return Answer(
            session=event.partition_key,
            features=route.features,
            action=Action(route.tier, route.context_tokens, route.temperature, route.top_p),
            permitted=permitted,
            minimum_quality=event.request.constraints.minimum_quality,
            propensity=propensity,
            explored=route.exploration > 0,
            quality=outcome.quality,
            latency_s=event.latency_ms.get("generate", 0.0) / 1000,
            cost=self._rules.prices[arms.tiers.index(route.tier)] * tokens / 1000,
        )


def propensity_of_pair(route: Route) -> float:
    """That this tier came with this context size, whatever the sampling settings: heads are drawn apart."""
    return route.arms["tier"][route.tier] * route.arms["context_tokens"][str(route.context_tokens)]


def _permitted(route: Route, arms: Arms) -> Arms:
    given = route.arms
    temperatures, top_ps = tuple(map(float, given["temperature"])), tuple(map(float, given["top_p"]))
    return Arms(tuple(t for t in arms.tiers if t in given["tier"]), arms.context_tokens, temperatures, top_ps)
