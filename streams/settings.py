"""One configuration for everything: a file, then the environment, then flags; the later wins.

`ruvllm.toml` (or the file that RUVLLM_CONFIG names), then `RUVLLM_*` with `__` between levels
(`RUVLLM_KAFKA__PREFIX=test`), then `--set kafka.prefix=test`. KAFKA_BOOTSTRAP_SERVERS is honoured as
every Kafka tool does. A value that does not fit is refused with its name, before anything starts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ruvllm.errors import InvalidConfiguration

ENV_PREFIX = "RUVLLM_"
CONFIG_FILE = "ruvllm.toml"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    bootstrap_servers: str = Field(default="", description="host:port,...; empty: the local broker")
    prefix: str = Field(
        default="ruvllm", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,48}$", description="of topics and groups"
    )
    partitions: int = Field(default=16, ge=1, le=1024, description="of each topic of the flow; fixed at creation")
    replication: int = Field(default=1, ge=1, le=15, description="copies of each partition")
    port: int = Field(default=9092, ge=1, le=65535, description="of the local broker")
    session_timeout_s: float = Field(default=20.0, gt=0, description="until a silent worker is taken for dead")
    heartbeat_s: float = Field(default=3.0, gt=0, description="between two signs of life")
    commit_interval_s: float = Field(default=1.0, gt=0, description="between two commits of what is done")
    request_timeout_s: float = Field(default=60.0, gt=0, description="of one request to the broker")


class LimitSettings(Section):
    tenants: tuple[str, ...] = Field(default=("default",), description="who may ask and be remembered")
    reply_to: tuple[str, ...] = Field(default=(), description="topics a request may name as reply_to")
    prompt_chars: int = Field(default=32_000, ge=1, description="of all messages of a request together")
    messages: int = Field(default=64, ge=1, description="of one request")
    document_chars: int = Field(default=2_000_000, ge=1, description="of one document")
    document_passages: int = Field(default=1_000, ge=1, description="of one document; 80 ms each where they are long")
    default_deadline_s: float = Field(default=120.0, gt=0, description="when the request names none")
    longest_deadline_s: float = Field(default=900.0, gt=0, description="a later one is moved to this")
    waiting_turns: int = Field(default=32, ge=0, description="a session's bounded queue")
    history_turns: int = Field(default=8, ge=0, description="of a session that go along with its next question")
    sessions_kept: int = Field(default=5_000, ge=1, description="by partition; the longest idle are forgotten")
    answers_kept: int = Field(default=20_000, ge=1, description="by partition, for repeated request ids")


class RetrievalSettings(Section):
    embedder: Literal["minilm", "hashing"] = Field(
        default="minilm", description="the profile's model, or hashed words, which need no file"
    )
    candidates: int = Field(default=24, ge=1, le=1000, description="nearest nodes looked at")
    passages: int = Field(default=4, ge=1, le=50, description="handed on, best first")
    floor: float = Field(default=0.30, ge=-1, le=1, description="cosine under which memory holds nothing on it")
    hops: int = Field(default=1, ge=0, le=2, description="along the graph's edges")
    seeds: int = Field(default=3, ge=0, description="best hits that the graph is walked from")
    graph_damping: float = Field(default=0.8, ge=0, le=1, description="of the score of what an edge led to")


class RouterSettings(Section):
    confidence_threshold: float = Field(default=0.5, ge=0, le=1, description="under it the default route is taken")
    exploration: float = Field(default=0.05, ge=0, le=1, description="share of requests routed uniformly at random")
    unexplored_tenants: tuple[str, ...] = Field(
        default=(), description="tenants whose requests are never explored with"
    )
    cost_weight: float = Field(
        default=0.1, ge=0, description="lambda: quality given up to save the dearest route's cost"
    )
    latency_weight: float = Field(
        default=0.05, ge=0, description="mu: quality that each further SLA of waiting is worth"
    )
    minimum_quality: float = Field(default=0.0, ge=0, le=1, description="theta, where the request does not say")
    sla_s: float = Field(default=30.0, gt=0, description="seconds in which an answer should be there")
    past_kept: int = Field(default=2_000, ge=1, description="judged answers of a tenant that routes are estimated from")
    default_context_tokens: int = Field(default=2048, description="one of the router's arms")
    default_temperature: float = Field(default=0.0, description="one of the router's arms")
    default_top_p: float = Field(default=0.95, description="one of the router's arms")


class GenerationSettings(Section):
    backend: Literal["llama", "echo", "recorded"] = Field(
        default="llama",
        description="the profile's models, the best sentence of what memory has, or what models said before",
    )
    recorded: tuple[Path, ...] = Field(default=(), description="reports of `eval answers` that hold what they said")
    max_tokens: int = Field(default=256, ge=1, le=4096, description="when the request does not say")
    threads: int = Field(default=0, ge=0, description="by model process; 0: one a core, at most 4")
    slots: int = Field(default=4, ge=1, description="jobs under way in one pool worker, over all tiers")
    time_budget_s: float = Field(
        default=90.0, gt=0, le=120, description="longest generation; under the deadline in any case"
    )  # a rebalance waits for what is under way: stage_app.LONGEST_HANDLER_S
    echo_delay_s: float = Field(default=0.0, ge=0, description="what the echo takes for an answer")


class LearningSettings(Section):
    write_back: float = Field(default=0.8, ge=0, le=1, description="quality from which an answer is remembered")
    same: float = Field(default=0.97, ge=0, le=1, description="cosine from which two questions may be one")
    costly_judge: bool = Field(default=True, description="ask the largest tier where the cheap judge wavers")
    train_every_s: float = Field(default=300.0, gt=0, description="how often to look whether to train the ranker")
    router: bool = Field(default=True, description="train the router, too; false: what serves stays")
    router_sessions: int = Field(
        default=2_000, ge=1, description="newest sessions that a run of the router learns from, and as many older ones"
    )
    train_after: int = Field(default=200, ge=1, description="judged answers since the last run that make another one")
    judged_kept: int = Field(default=1_000, ge=1, description="by partition: interactions that feedback still reaches")
    learnt_kept: int = Field(default=5_000, ge=1, description="by partition: interactions whose effect can be revised")


class MemorySettings(Section):
    snapshot_every: int = Field(default=5_000, ge=1, description="changes folded between two snapshots")
    snapshots_kept: int = Field(default=2, ge=1, description="of each view of memory")


class WorkerSettings(Section):
    answer_port: int = Field(default=9401, ge=0, le=65535, description="health and metrics; 0: a free one")
    pool_port: int = Field(default=9402, ge=0, le=65535, description="as above")
    learn_port: int = Field(default=9403, ge=0, le=65535, description="as above")
    drain_s: float = Field(default=30.0, gt=0, description="SIGTERM: time to finish what is under way")
    retries: int = Field(default=3, ge=1, description="attempts of a handler before the dead letter")


class Settings(Section):
    """All settings. `ruvllm config` prints them with their origin."""

    profile: Literal["small", "tiny", "lfm2"] = Field(default="small", description="of the catalogue: which models run")
    home: Path = Field(
        default=Path("~/.ruvllm"), validate_default=True, description="models, broker data, snapshots, process files"
    )
    models: Path | None = Field(default=None, description="model files, if not in <home>/models")
    kafka: KafkaSettings = KafkaSettings()
    limits: LimitSettings = LimitSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    router: RouterSettings = RouterSettings()
    generation: GenerationSettings = GenerationSettings()
    memory: MemorySettings = MemorySettings()
    learning: LearningSettings = LearningSettings()
    workers: WorkerSettings = WorkerSettings()

    @field_validator("home", "models")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @property
    def models_folder(self) -> Path:
        return self.models or self.home / "models"

    def snapshots_folder(self, worker: str) -> Path:
        """One process writes one folder."""
        return self.home / "state" / self.kafka.prefix / worker

    @property
    def replays_folder(self) -> Path:
        return self.home / "replays" / self.kafka.prefix

    def model_threads(self) -> int:
        return self.generation.threads or min(4, os.cpu_count() or 1)


def load_settings(
    flags: Mapping[str, str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Settings from the file, the environment and flags (`{"kafka.prefix": "test"}`), the later wins.

    Raises InvalidConfiguration with the setting's name, its value and where it came from.
    """
    return resolve(flags, environ=environ, file=file)[0]


def resolve(
    flags: Mapping[str, str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> tuple[Settings, dict[str, str]]:
    """The settings and, for each that was given, the name of its source."""
    env = os.environ if environ is None else environ
    chosen = file or Path(env.get(f"{ENV_PREFIX}CONFIG", CONFIG_FILE))
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, pairs in (
        (str(chosen), _from_file(chosen, required=file is not None or f"{ENV_PREFIX}CONFIG" in env)),
        ("environment", _from_environ(env)),
        ("flag", dict(flags or {})),
    ):
        for path, value in pairs.items():
            _put(merged, path, value)
            origin[path] = source
    try:
        return Settings.model_validate(merged), origin
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(p) for p in problem["loc"])
        source = origin.get(path, "file, environment or flag")
        raise InvalidConfiguration(f"{path} = {problem.get('input')!r} ({source}): {problem['msg']}") from error


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise InvalidConfiguration(f"there is no configuration file {path}")
        return {}
    try:
        return dict(_flat(tomllib.loads(path.read_text("utf-8"))))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"{path} is not TOML: {error}") from error


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    if servers := environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        pairs["kafka.bootstrap_servers"] = servers
    known = set(setting_names())
    for name, value in environ.items():
        path = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if name.startswith(ENV_PREFIX) and (path in known or "__" in name):
            pairs[path] = value
    return pairs


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InvalidConfiguration(f"{parent} = {tree!r} is given beside {path}: it is a section, not a value")
    if isinstance(value, str) and value.startswith(("[", "{")):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise InvalidConfiguration(f"{path} = {value!r} looks like JSON and is not: {error}") from error
    tree[leaf] = value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting_names() -> Iterator[str]:
    """Every setting as a dotted path, in the order of declaration."""
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from (f"{name}.{leaf}" for leaf in kind.model_fields)
        else:
            yield name
