"""`ruvllm eval retrieval`: what learning from outcomes is worth, on questions that were not learnt from.

One run measures six rankers on the same questions: bm25, vectors, hybrid, pagerank, `frozen` (the
ranker before it learnt) and `learned`. Learning is what serving does: credit from feedback, past
questions, a gated training run; only the feedback is simulated, from what the set knows.

Protocols: `heldout` (five folds, every question tested once), `repeat` (the same questions again),
`paraphrase` (in other words), `stream` (windows over time), `noise` (held out, feedback wrong with
probability p), `shift` (learn on the first set, measured on the others), `labels` (learning curve).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.candidate_graph import CandidateGraph, Pool
from ruvllm.models.attention.credit import by_accepted_answer, by_quality, by_verdicts
from ruvllm.models.attention.gate import Verdict, gate
from ruvllm.models.attention.graph_attention import GraphAttention
from ruvllm.models.attention.past_questions import PastQuestions
from ruvllm.models.attention.ranker import rank
from ruvllm.models.attention.training import Example, train
from ruvllm.streams.proof.retrieval_bench import DEPTH, Asked, Bench
from ruvllm.streams.proof.retrieval_scores import Scores
from ruvllm.streams.proof.retrieval_sets import Pooled, Query

Protocol = Literal["heldout", "repeat", "paraphrase", "stream", "noise", "shift", "labels"]
Feedback = Literal["scalar", "served", "answers", "gold"]
FOLDS = 5
SERVED = 10
WINDOWS = 6
LABELS = (10, 30, 100, 300)
Say = Callable[[str], None]
Float32s = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Judged:
    """A question after its feedback: candidates, their graph, and the credit that each got."""

    query: Query
    asked: Asked
    pool: Pool
    graph: CandidateGraph
    credit: Float32s


@dataclass
class Learnt:
    """What serving has after learning: past questions, and a ranker if it passed the gate."""

    past: PastQuestions
    ranker: GraphAttention | None
    verdict: Verdict | None


class Evaluation:
    """One run over a bench: protocols share the candidates, the feedback and the learner."""

    def __init__(self, bench: Bench, *, feedback: Feedback, noise: float, seeds: int, say: Say) -> None:
        self._bench = bench
        self._feedback = feedback
        self._noise = noise
        self._seeds = seeds
        self._say = say
        self._queries = bench.pooled.queries
        self._asked = dict(
            zip((q.query_id for q in self._queries), bench.ask([q.question for q in self._queries]), strict=True)
        )
        self._frozen: dict[str, tuple[Pool, CandidateGraph]] = {}
        self._fixed: dict[str, dict[str, tuple[list[str], float]]] = {}
        self.scores = Scores()
        self.axis = ""
        self.curve: dict[int | str, Scores] = {}
        self.verdicts: list[Verdict] = []

    def run(self, protocol: Protocol) -> None:
        """Measure. Raises InvalidRequest if the sets lack what the protocol needs."""
        protocols = {
            "heldout": self._heldout,
            "noise": self._heldout,
            "repeat": self._repeat,
            "paraphrase": self._paraphrase,
            "stream": self._stream,
            "shift": self._shift,
            "labels": self._labels,
        }
        check(self._bench.pooled, protocol, self._feedback)
        protocols[protocol]()

    # --- protocols --------------------------------------------------------------------------------

    def _heldout(self) -> None:
        for seed in range(self._seeds):
            for fold, (learn, test) in enumerate(self._folds(seed)):
                self.scores.merge(self._measure(self._learn(learn, seed), test))
                self._say(f"seed {seed} fold {fold}: {self._told()}")

    def _repeat(self) -> None:
        for seed in range(self._seeds):
            self.scores.merge(self._measure(self._learn(self._queries, seed), self._queries))
            self._say(f"seed {seed}: {self._told()}")

    def _paraphrase(self) -> None:
        words = self._bench.pooled.paraphrases
        queries = [q for q in self._queries if q.query_id in words]
        asked = self._bench.ask([words[q.query_id] for q in queries])
        for seed in range(self._seeds):
            learnt = self._learn(self._queries, seed)
            again = {q.query_id: a for q, a in zip(queries, asked, strict=True)}
            self.scores.merge(self._measure(learnt, queries, again))
            self._say(f"seed {seed}: {self._told()}")

    def _shift(self) -> None:
        first = self._bench.pooled.sets()[0]
        learn = [q for q in self._queries if q.of_set == first]
        test = [q for q in self._queries if q.of_set != first]
        for seed in range(self._seeds):
            self.scores.merge(self._measure(self._learn(learn, seed), test))
            self._say(f"seed {seed}: {self._told()}")

    def _labels(self) -> None:
        for seed in range(self._seeds):
            for learn, test in self._folds(seed):
                for labels in (*[n for n in LABELS if n < len(learn)], len(learn)):
                    measured = self._measure(self._learn(learn[:labels], seed), test)
                    self._point("labels", labels if labels != len(learn) else "all", measured)
                self.scores.merge(measured)
                self._say(f"seed {seed}: {self._told()}")

    def _stream(self) -> None:
        """Half of each window's questions were asked before; what a window taught is used from the next on."""
        for seed in range(self._seeds):
            generator = np.random.default_rng(seed)
            order = [self._queries[i] for i in generator.permutation(len(self._queries))]
            size = max(1, len(order) // WINDOWS)
            seen: list[Query] = []
            learnt = Learnt(PastQuestions(self._dimension), None, None)
            for window in range(WINDOWS):
                fresh = order[window * size : (window + 1) * size]
                again = [seen[i] for i in generator.integers(0, len(seen), size)] if seen else []
                measured = self._measure(learnt, [*fresh, *again])
                self._point("window", window, measured)
                self.scores.merge(measured)
                seen += fresh
                learnt = self._learn(seen, seed)
            self._say(f"seed {seed}: {self._told()}")

    # --- what they share --------------------------------------------------------------------------

    @property
    def _dimension(self) -> int:
        return int(self._bench.vectors.shape[1])

    def _folds(self, seed: int) -> list[tuple[list[Query], list[Query]]]:
        order = np.random.default_rng(seed).permutation(len(self._queries))
        parts = [set(order[fold::FOLDS].tolist()) for fold in range(FOLDS)]
        rows = [self._queries[i] for i in order]
        return [
            ([q for i, q in zip(order, rows, strict=True) if i not in part], [self._queries[i] for i in sorted(part)])
            for part in parts
        ]

    def _learn(self, queries: Sequence[Query], seed: int) -> Learnt:
        """Feedback on each question, then past questions, then a training run behind its gate."""
        generator = np.random.default_rng((seed, 1))
        past = PastQuestions(self._dimension)
        known_of: dict[str, dict[str, float]] = {}
        for query in queries:
            pool, _ = self._before(query)
            credit = self._credit(query, pool, generator)
            known_of[query.query_id] = dict(zip(pool.ids, credit.tolist(), strict=True))
            if credit.sum() > 0:
                strongest = credit / credit.max()
                weights = {i: float(w) for i, w in zip(pool.ids, strongest, strict=True) if w > 0}
                past.put(query.query_id, self._asked[query.query_id].vector, weights)
        examples = []
        for query in queries:
            known = known_of[query.query_id]
            if sum(known.values()) > 0:
                asked = self._asked[query.query_id]
                pool, graph = self._before(query)
                if past.support(asked.vector, leave_out=query.query_id):  # else it is as it was before
                    pool = self._bench.pool(asked, past, leave_out=query.query_id)
                    graph = self._bench.graph(asked, pool)
                target = np.array([known.get(node_id, 0.0) for node_id in pool.ids], np.float32)
                if target.sum() > 0:
                    examples.append(Example(graph, target))
        fit = partial(train, seed=seed)
        verdict = gate(examples, fit, seed=seed)
        self.verdicts.append(verdict)
        return Learnt(past, GraphAttention(fit(examples)) if verdict.passed else None, verdict)

    def _before(self, query: Query) -> tuple[Pool, CandidateGraph]:
        """The candidates of a question before anything was learnt."""
        if query.query_id not in self._frozen:
            asked = self._asked[query.query_id]
            pool = self._bench.pool(asked, None)
            self._frozen[query.query_id] = pool, self._bench.graph(asked, pool)
        return self._frozen[query.query_id]

    def _credit(self, query: Query, pool: Pool, generator: np.random.Generator) -> Float32s:
        """What the chosen feedback says of a question's candidates; wrong with the given probability."""
        order = np.argsort(-pool.hybrid, kind="stable")
        served = [pool.ids[i] for i in order[:SERVED]]
        wrong = bool(generator.random() < self._noise)
        if self._feedback == "answers" and not query.answers:
            return np.zeros(len(pool.ids), np.float32)  # nobody says anything: measured, not learnt from
        if self._feedback == "scalar":
            quality = len(query.gold & set(served)) / len(query.gold)
            return by_quality(pool.ids, served, 1 - quality if wrong else quality)
        right: set[str] = set(query.gold)
        answers = query.answers
        if wrong:
            other = self._queries[int(generator.integers(len(self._queries)))]
            right = {pool.ids[int(generator.integers(len(pool.ids)))]}
            answers = other.answers
        if self._feedback == "answers":
            return by_accepted_answer(pool.ids, answers, self._bench.lexicon)
        return by_verdicts(pool.ids, served if self._feedback == "served" else pool.ids, right)

    def _measure(self, learnt: Learnt, queries: Sequence[Query], asked: dict[str, Asked] | None = None) -> Scores:
        scores = Scores()
        for query in queries:
            question = (asked or self._asked)[query.query_id]
            for name, (order, ms) in self._unlearned(question).items():
                scores.add(name, query, order, ms)
            started = time.perf_counter()
            order = self._learned(question, learnt)
            scores.add("learned", query, order, (time.perf_counter() - started) * 1000)
        return scores

    def _unlearned(self, asked: Asked) -> dict[str, tuple[list[str], float]]:
        """What the rankers serve that learning does not change, and their milliseconds."""
        if asked.question not in self._fixed:
            found = self._bench.fixed(asked)
            started = time.perf_counter()
            pool = self._bench.pool(asked, None)
            frozen = rank(self._bench.graph(asked, pool), pool.past, 0.0, None)
            found["frozen"] = _order(pool, frozen), (time.perf_counter() - started) * 1000
            self._fixed[asked.question] = found
        return self._fixed[asked.question]

    def _learned(self, asked: Asked, learnt: Learnt) -> list[str]:
        nearest = learnt.past.nearest(asked.vector)
        pool = self._bench.pool(asked, learnt.past)
        likeness = nearest[0][1] if nearest else 0.0
        return _order(pool, rank(self._bench.graph(asked, pool), pool.past, likeness, learnt.ranker))

    def _point(self, axis: str, at: int | str, measured: Scores) -> None:
        self.axis = axis
        self.curve.setdefault(at, Scores()).merge(measured)

    def _told(self) -> str:
        verdict = self.verdicts[-1]
        said = "passed" if verdict.passed else "held back"
        return f"gate {said}: {verdict.gain:+.3f} ± {verdict.error:.3f} on {verdict.questions} held-out questions"


def check(pooled: Pooled, protocol: Protocol, feedback: Feedback) -> None:
    """Raises InvalidRequest if the sets lack what protocol and feedback need: before hours of embedding."""
    sets = pooled.sets()
    if protocol == "shift" and len(sets) < 2:
        raise InvalidRequest("`shift` needs two sets or more: learn on the first, measured on the others")
    if protocol == "paraphrase" and not pooled.paraphrases:
        raise InvalidRequest("no set has paraphrases.jsonl.gz", hint="`ruvllm eval paraphrases DIR` makes them.")
    taught = sets[:1] if protocol == "shift" else sets
    if feedback == "answers" and not any(query.answers for query in pooled.queries if query.of_set in taught):
        raise InvalidRequest(
            f"no question of {', '.join(taught)} has `answers`: there is nothing to learn from",
            hint="Take --feedback served (verdicts on what was served), or add a set that has answers.",
        )


def _order(pool: Pool, scores: Float32s) -> list[str]:
    return [pool.ids[i] for i in np.argsort(-scores, kind="stable")[:DEPTH]]
