"""The full-text side of memory: BM25 over passages, kept up to date one passage at a time (tantivy).

BM25 with k1 = 1.2, b = 0.75 (Robertson & Zaragoza 2009, equation 3.15); English stemming and stop words.
Changes are gathered and become searchable together, at the next search.

Invariant: a search sees every passage that was added before it, and none that was removed.
"""

from __future__ import annotations

import tantivy

WRITER_BYTES = 15_000_000  # the least that tantivy takes; a tenant has one


class KeywordIndex:
    """Passages by their words, in memory."""

    def __init__(self) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("text", stored=False, tokenizer_name="words", index_option="freq")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._words = (
            tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
            .filter(tantivy.Filter.lowercase())
            .filter(tantivy.Filter.stopword("english"))
            .filter(tantivy.Filter.stemmer("english"))
            .build()
        )
        self._index.register_tokenizer("words", self._words)
        self._writer = self._index.writer(heap_size=WRITER_BYTES, num_threads=1)
        self._known: set[str] = set()
        self._stale = False

    def __len__(self) -> int:
        return len(self._known)

    def add(self, node_id: str, title: str, text: str) -> None:
        """Add or replace a passage."""
        self.remove(node_id)
        self._writer.add_document(tantivy.Document(id=node_id, text=f"{title}\n{text}"))
        self._known.add(node_id)
        self._stale = True

    def remove(self, node_id: str) -> None:
        """Forget a passage, if it is known."""
        if node_id in self._known:
            self._writer.delete_documents_by_term("id", node_id)
            self._known.discard(node_id)
            self._stale = True

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """The k passages of the greatest BM25 score for a text's words, best first (ties by id), all above 0."""
        if self._stale:
            self._writer.commit()
            self._index.reload()
            self._stale = False
        words = sorted(set(self._words.analyze(text)))
        if not words or not self._known:
            return []
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "text", word)) for word in words]
        )
        searcher = self._index.searcher()
        found = [(str(searcher.doc(place)["id"][0]), float(score)) for score, place in searcher.search(query, k).hits]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))
