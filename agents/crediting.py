"""Which of an answer's candidates deserve the credit: what the ranker learns from.

Where the right answer is known its own words say so, whatever the model made of them; else the verdicts on
what was served do (`models/attention/credit.py`).
"""

from __future__ import annotations

import numpy as np

from ruvllm.models.attention.credit import by_accepted_answer, by_verdicts
from ruvllm.models.memory.lexicon import Lexicon
from ruvllm.models.memory.reinforcement import THETA
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.outcome import CandidatesCredited, Judged


def credited(event: Judged, memory: Memory) -> CandidatesCredited:
    """The credit of each candidate of an outcome; those without any are left out, all of them if it is retracted."""
    candidates: tuple[str, ...] = event.candidates if event.retraction is None else ()
    if event.accepted is not None:
        said = Lexicon()
        for node_id in candidates:
            if (node := memory.node(event.tenant, node_id)) is not None:
                said.add(node_id, node.title, node.text)
        candidates = tuple(node_id for node_id in candidates if node_id in said)
        found = by_accepted_answer(candidates, [event.accepted], said)
    else:
        right = [served.node_id for served in event.served if served.support >= THETA]
        found = by_verdicts(candidates, candidates, right) * np.float32(event.quality >= THETA)
    credit = dict(zip(candidates, found.tolist(), strict=True))
    return CandidatesCredited(
        tenant=event.tenant,
        session=event.session,
        request_id=event.request_id,
        time=event.time,
        interaction_id=event.interaction_id,
        revision=event.revision,
        credit={node_id: round(value, 6) for node_id, value in credit.items() if value > 0},
        retracted=event.retraction is not None,
    )
