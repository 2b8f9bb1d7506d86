"""What the ranker learns from: judged questions, the newest of them, shared out among those who asked.

Invariant: what is kept is a function of what was told, in whatever order it came. Places are given in turns:
each tenant has the first, then each the second, and so on; of a tenant's places so does each of its clients.
Nobody fills what others would have used, and what nobody else uses is free to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, NamedTuple

from ruvllm.models.attention.lesson import Lesson
from ruvllm.models.attention.packing import is_of_these_features
from ruvllm.models.learning_run import Result
from ruvllm.models.memory.lexicon import words_of
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import Learner

MOST_LESSONS: Final = 5_000


class _Told(NamedTuple):
    """A lesson and who taught it. In this order it is canonical: by time, then id."""

    at: float
    interaction_id: str
    tenant: str
    client: str
    lesson: Lesson


class AttentionCourse:
    """At most `most` judged questions. First all credit is told, then the interactions that it is for.

    What no candidate deserves credit for teaches nothing, nor does what was ranked by other features.
    """

    learner: ClassVar[Learner] = "attention"
    counted: ClassVar[str] = CandidatesCredited.topic
    kinds: ClassVar[tuple[type[Event], ...]] = (CandidatesCredited, Interaction)
    retires: ClassVar[bool] = True
    """What serves was trained as what is held back was: it is out as well."""

    def __init__(self, *, most: int = MOST_LESSONS) -> None:
        self._most = most
        self._credit: dict[str, CandidatesCredited] = {}
        self._told: list[_Told] = []
        self._seen: set[str] = set()

    def take(self, event: Event) -> None:
        """Of several revisions of credit the last counts; an interaction is taken in if it teaches anything."""
        if isinstance(event, CandidatesCredited):
            known = self._credit.get(event.interaction_id)
            if known is None or event.revision > known.revision:
                self._credit[event.interaction_id] = event
        elif isinstance(event, Interaction):
            self._add(event)

    def lessons(self) -> list[Lesson]:
        """In canonical order."""
        return [told.lesson for told in sorted(_shared_out(self._told, self._most), key=lambda told: told[:2])]

    def job(self) -> tuple[Callable[..., Result], tuple[object, ...]]:
        """What a child process runs on the lessons, seed and parent; and what it is handed beside them.

        Raises ModuleNotFoundError without torch.
        """
        from ruvllm.models.attention.run import run  # noqa: PLC0415  # torch

        return run, ()

    def configuration(self) -> dict[str, float]:
        from ruvllm.models.attention.run import configuration  # noqa: PLC0415  # torch

        return configuration()

    def _add(self, interaction: Interaction) -> None:
        credited = self._credit.get(interaction.interaction_id)
        candidates = interaction.retrieval.candidates if interaction.retrieval else None
        if credited is None or candidates is None or interaction.interaction_id in self._seen:
            return
        deserved = tuple(credited.credit.get(node_id, 0.0) for node_id in candidates.node_ids)
        if not any(deserved) or not is_of_these_features(candidates.graph):
            return
        self._seen.add(interaction.interaction_id)
        question = content_id("q", interaction.tenant, words_of(interaction.request.question))
        self._told.append(
            _Told(
                interaction.time.timestamp(),
                interaction.interaction_id,
                interaction.tenant,
                interaction.request.client or "",
                Lesson(candidates.graph, deserved, question),
            )
        )
        if len(self._told) > 1.25 * self._most:  # what is left out now would be left out at the end
            self._told = _shared_out(self._told, self._most)


def _shared_out(told: Iterable[_Told], most: int) -> list[_Told]:
    """The first `most` places, in turns by tenant, and within a tenant in turns by client; each gives its newest."""
    newest_first = sorted(told, key=lambda one: one[:2], reverse=True)
    by_client: Counter[tuple[str, str]] = Counter()
    turns: list[tuple[int, _Told]] = []
    for one in newest_first:
        turns.append((by_client[one.tenant, one.client], one))
        by_client[one.tenant, one.client] += 1
    by_tenant: Counter[str] = Counter()
    places: list[tuple[int, _Told]] = []
    for _, one in sorted(turns, key=lambda row: row[0]):
        places.append((by_tenant[one.tenant], one))
        by_tenant[one.tenant] += 1
    return [one for _, one in sorted(places, key=lambda row: (row[0], row[1].tenant))[:most]]
