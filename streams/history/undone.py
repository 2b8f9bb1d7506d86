"""What an undo says of itself: to people by the line, to programs as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ruvllm.streams.history.selection import Asked
from ruvllm.streams.history.undo import Plan

SHOWN = 10
"""Of a list of answers, for people; programs get all."""


def as_json(plan: Plan, tainted: Mapping[str, list[str]], **facts: object) -> dict[str, Any]:
    """The report as JSON knows it. `tainted`: learner -> checkpoints; `facts`: what else is to be said."""
    return {
        **facts,
        "interactions": [command.interaction_id for command in plan.retract],
        "unjudged": plan.unjudged,
        "taken_back_before": plan.before,
        "documents": [command.document_id for command in plan.remove],
        "edges": plan.edges,
        "nodes_gone": list(plan.gone),
        "nodes_headed_anew": list(plan.headed_anew),
        "derived": [_answer(asked) for asked in plan.derived],
        "tainted": {learner: list(names) for learner, names in tainted.items()},
    }


def in_words(plan: Plan, tainted: Mapping[str, list[str]], *, done: bool) -> Iterator[str]:
    """The report by the line. `done`: whether it was carried out."""
    if not plan:
        yield f"nothing is left to take back: {_counted(plan.before, 'interaction')} taken back before"
    else:
        verb = "taken back" if done else "to be taken back"
        earlier = f", {plan.before} taken back before" if plan.before else ""
        unjudged = f", {plan.unjudged} of them not judged yet" if plan.unjudged else ""
        yield f"{verb}: {_counted(len(plan.retract), 'interaction')}{unjudged}{earlier}; " + _counted(
            len(plan.remove), "document"
        )
        yield (
            f"memory: they have taught {_counted(plan.edges, 'edge')}; {_counted(len(plan.gone), 'node')} gone, "
            f"{len(plan.headed_anew)} headed by another maker"
        )
    if plan.derived:
        yield f"answers that stand on it: {len(plan.derived)}; --transitive takes them back as well"
        for asked in plan.derived[:SHOWN]:
            yield f"  {asked.time:%Y-%m-%d %H:%M:%S} request {asked.request_id}, {asked.interaction_id}"
        if len(plan.derived) > SHOWN:
            yield f"  and {len(plan.derived) - SHOWN} more: --json names them"
    for learner, names in tainted.items():
        if names:
            yield f"tainted {learner} checkpoints: {', '.join(names)}; the next run replaces or demotes what serves"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _answer(asked: Asked) -> dict[str, str]:
    return {
        "interaction_id": asked.interaction_id,
        "request_id": asked.request_id,
        "session": asked.session,
        "time": asked.time.isoformat(),
    }
