"""Where models meet stages: the one place that builds what the agents are handed.

A process builds what its stages use and nothing else: each resource is made when first asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property

import structlog

from ruvllm.agents.clock import Clock
from ruvllm.agents.desk import Desk, DeskRules
from ruvllm.agents.documents import DocumentKeeper
from ruvllm.agents.generate import GenerationRules, generate
from ruvllm.agents.intake import Limits, accept_feedback, accept_request
from ruvllm.agents.judge import JudgeDesk, JudgeRules, settle
from ruvllm.agents.lessons import AttentionCourse
from ruvllm.agents.past import Past
from ruvllm.agents.reinforce import Reinforcement, ReinforcementRules
from ruvllm.agents.retrieve import MemorySource, Ranker, retrieve
from ruvllm.agents.route import PastSource, route
from ruvllm.agents.routers import RouterCourse
from ruvllm.errors import ModelUnavailable, RuvllmError, WrongHash
from ruvllm.models.attention.finding import RetrievalRules
from ruvllm.models.catalogue import Catalogue, Profile
from ruvllm.models.embedding import Embedder, HashingEmbedder, MiniLm
from ruvllm.models.judge.judge import Judge
from ruvllm.models.judge.weights import packaged_weights
from ruvllm.models.memory.store import Memory
from ruvllm.models.pool.chat_template import TEMPLATES, ChatTemplate
from ruvllm.models.pool.echo import EchoGenerator
from ruvllm.models.pool.job import Generator, UnavailableModel
from ruvllm.models.pool.pool import Pool
from ruvllm.models.pool.process import ModelProcess
from ruvllm.models.pool.recorded import RecordedGenerator, load_recordings
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Router
from ruvllm.models.router.rules import Rules
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Admitted, Origin, Retrieved, Routed
from ruvllm.schemas.outcome import JudgementDoubted
from ruvllm.schemas.request import Ask, Rate
from ruvllm.schemas.training import Learner
from ruvllm.streams.guard import Handler
from ruvllm.streams.model_files import ModelStore, packaged_catalogue
from ruvllm.streams.owner import Keeper
from ruvllm.streams.settings import Settings
from ruvllm.streams.topology import Names
from ruvllm.streams.training import Course

log = structlog.get_logger(__name__)

ROUTER_SEED = 20190108
"""Of the untrained checkpoint: every installation starts from the same one."""


def names_of(settings: Settings) -> Names:
    """The topics and groups of an installation, those of its profile's tiers included."""
    tiers = packaged_catalogue().profile(settings.profile).tiers
    return Names(settings.kafka.prefix, tuple(t.tier for t in tiers), settings.kafka.partitions)


class Wiring:
    """The resources of one process and the handlers that are bound to them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.memory: MemorySource | None = None  # set by whoever follows the log of memory
        self.ranker: Callable[[], Ranker | None] = lambda: None  # set by whoever follows the log of training
        self.router: Callable[[], Router] = lambda: self.untrained_router  # so is this
        self.past: PastSource | None = None  # and this by whoever follows that of outcomes

    # --- resources --------------------------------------------------------------------------------

    @cached_property
    def catalogue(self) -> Catalogue:
        return packaged_catalogue()

    @cached_property
    def profile(self) -> Profile:
        return self.catalogue.profile(self.settings.profile)

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(t.tier for t in self.profile.tiers)

    @cached_property
    def names(self) -> Names:
        return names_of(self.settings)

    @cached_property
    def store(self) -> ModelStore:
        return ModelStore(self.settings.models_folder, self.catalogue)

    @cached_property
    def embedder(self) -> Embedder:
        if self.settings.retrieval.embedder == "hashing":
            return HashingEmbedder()
        return MiniLm(
            self.store.verified_path(self.profile.embedder, "model.onnx"),
            self.store.verified_path(self.profile.embedder, "tokenizer.json"),
        )

    @cached_property
    def untrained_router(self) -> Router:
        rules = self.router_rules
        untrained = Checkpoint.initial(rules.arms, rules.seed_of_start, rules.prices)
        return rules.router(untrained, exploration=self.settings.router.exploration)

    @cached_property
    def router_rules(self) -> Rules:
        given = self.settings.router
        return Rules(
            arms=Arms(self.tiers),
            default=Action(
                self.profile.default_tier,
                given.default_context_tokens,
                given.default_temperature,
                given.default_top_p,
            ),
            prices=tuple(tier.cost_per_token for tier in self.profile.tiers),
            objective=Objective(given.cost_weight, given.latency_weight, given.minimum_quality, given.sla_s),
            confidence_threshold=given.confidence_threshold,
            seed_of_start=ROUTER_SEED,
        )

    def new_past(self) -> Past:
        return Past(self.tiers, kept=self.settings.router.past_kept)

    def new_courses(self) -> dict[Learner, Callable[[], Course]]:
        """Learner -> how to make its course, one for each run."""
        recent = self.settings.learning.router_sessions
        return {"attention": AttentionCourse, "router": lambda: RouterCourse(self.router_rules, recent=recent)}

    @cached_property
    def pool(self) -> Pool:
        """All tiers; one whose model file is not sound fails its own jobs. Raises that error if none is sound."""
        generators: dict[str, Generator] = {}
        unsound: list[RuvllmError] = []
        for tier in self.tiers:
            try:
                generators[tier] = self._generator(tier)
            except (ModelUnavailable, WrongHash) as error:
                log.error("tier_unavailable", tier=tier, error=str(error))
                unsound.append(error)
                generators[tier] = UnavailableModel(error)
        if len(unsound) == len(self.tiers):
            raise unsound[0]
        return Pool(generators)

    def _generator(self, tier: str) -> Generator:
        """A tier's model in a process of its own, started by its first job. Raises ModelUnavailable, WrongHash."""
        given = self.settings.generation
        if given.backend == "echo":
            return EchoGenerator(delay_s=given.echo_delay_s)
        if given.backend == "recorded":
            return RecordedGenerator(tier, load_recordings(given.recorded).get(tier, {}))
        model = self.profile.tier(tier).model
        return ModelProcess(
            model=model,
            path=self.store.verified_path(model),
            sha256=self.store.sha256(model) or "",
            environment=os.environ,
            threads=self.settings.model_threads(),
        )

    @cached_property
    def templates(self) -> dict[str, ChatTemplate]:
        """Tier -> the chat template its model was trained on."""
        return {t.tier: TEMPLATES[self.catalogue.model(t.model).chat_template or ""] for t in self.profile.tiers}

    def new_memory(self) -> Memory:
        return Memory(self.embedder.name, self.embedder.dimension)

    async def close(self) -> None:
        """Stop what was started: the models' processes."""
        if "pool" in self.__dict__:
            await self.pool.close()

    def prepare(self, stage: str) -> None:
        """Make what a stage needs now and not at its first record: to hash a model takes seconds.

        Raises what is wrong with settings or model files.
        """
        if stage in ("retrieve", "judge", "reinforce", "documents"):
            _ = self.embedder
        elif stage == "route":
            _ = self.untrained_router
        elif stage in ("generate", "verify"):
            _ = self.pool, self.templates

    # --- handlers ---------------------------------------------------------------------------------

    def handler(self, stage: str) -> Handler:
        """The function of a stage that keeps no state."""
        return {
            "intake": self._intake,
            "retrieve": self._retrieve,
            "route": self._route,
            "generate": self._generate,
            "verify": self._verify,
        }[stage]

    def keeper(self, stage: str) -> Callable[[], Keeper]:
        """How to make the agent that owns a partition of a stage."""
        makers: dict[str, Callable[[], Keeper]] = {
            "desk": self._desk,
            "judge": self._judge,
            "reinforce": self._reinforcement,
            "documents": self._documents,
        }
        return makers[stage]

    @cached_property
    def limits(self) -> Limits:
        given = self.settings.limits
        return Limits(
            tiers=self.tiers,
            tenants=given.tenants,
            reply_to=given.reply_to,
            prompt_chars=given.prompt_chars,
            messages=given.messages,
            default_deadline_s=given.default_deadline_s,
            longest_deadline_s=given.longest_deadline_s,
        )

    async def _intake(self, event: Event, origin: Origin) -> Event:
        if isinstance(event, Ask):
            return await accept_request(event, origin, self.limits, self.clock)
        assert isinstance(event, Rate)
        return await accept_feedback(event, origin, self.limits, self.clock)

    async def _retrieve(self, event: Event, _: Origin) -> Event:
        assert isinstance(event, Admitted)
        assert self.memory is not None
        return await retrieve(event, self.memory, self.embedder, self.retrieval_rules, self.clock, self.ranker())

    async def _route(self, event: Event, _: Origin) -> Event:
        assert isinstance(event, Retrieved)
        explore = event.tenant not in self.settings.router.unexplored_tenants
        return await route(event, self.router(), self.tiers, self.clock, self.past, explore=explore)

    async def _generate(self, event: Event, _: Origin) -> Event | Sequence[Event]:
        assert isinstance(event, Routed)
        return await generate(event, self.pool, self.templates, self._generation_rules, self.clock)

    async def _verify(self, event: Event, _: Origin) -> Sequence[Event]:
        assert isinstance(event, JudgementDoubted)
        budget_s = self.settings.generation.time_budget_s
        settled = await settle(event, self.pool, self.templates, self.clock, time_budget_s=budget_s)
        return (settled,) if settled else ()

    @cached_property
    def retrieval_rules(self) -> RetrievalRules:
        given = self.settings.retrieval
        return RetrievalRules(
            candidates=given.candidates,
            passages=given.passages,
            floor=given.floor,
            hops=given.hops,
            seeds=given.seeds,
            graph_damping=given.graph_damping,
        )

    @cached_property
    def _generation_rules(self) -> GenerationRules:
        given = self.settings.generation
        return GenerationRules(max_tokens=given.max_tokens, time_budget_s=given.time_budget_s)

    def _desk(self) -> Desk:
        given = self.settings.limits
        rules = DeskRules(
            waiting_turns=given.waiting_turns,
            history_turns=given.history_turns,
            sessions_kept=given.sessions_kept,
            answers_kept=given.answers_kept,
        )
        return Desk(rules, self.clock)

    def _judge(self) -> JudgeDesk:
        given = self.settings.learning
        rules = JudgeRules(costly=given.costly_judge, interactions_kept=given.judged_kept)
        return JudgeDesk(Judge(packaged_weights(), self.embedder.embed), self.clock, rules)

    def _reinforcement(self) -> Reinforcement:
        given = self.settings.learning
        assert self.memory is not None
        rules = ReinforcementRules(write_back=given.write_back, same=given.same, interactions_kept=given.learnt_kept)
        return Reinforcement(self.memory, self.embedder, self.clock, rules)

    def _documents(self) -> DocumentKeeper:
        given = self.settings.limits
        return DocumentKeeper(
            self.embedder,
            self.clock,
            given.tenants,
            document_chars=given.document_chars,
            document_passages=given.document_passages,
        )
