"""A document -> passages that follow its structure, each small enough to be found and read on its own.

Invariant: the same content gives the same chunks; a chunk's text is a piece of the document as it was
written, and no longer than `max_chars`. A boundary is sought where the text has one: between blocks
(paragraph, list, fence, quote, table), then lines, sentences, words, and only within a word that is
itself too long between characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ruvllm.errors import InvalidConfiguration, InvalidDocument

MAX_TITLE_CHARS = 300  # a passage's title is part of what is embedded: it must leave room for the text

# Where a piece may end; white space stays with the piece before it, so that pieces join to the original.
_PARAGRAPH = re.compile(r"(?<=\n\n)(?!\n)")
_LINE = re.compile(r"(?<=\n)")
_SENTENCE = re.compile(r"""(?<=[.!?…]\s)(?=\S)|(?<=[.!?…]["'”’)\]]\s)(?=\S)|(?<=[。！？])""")
_WORD = re.compile(r"(?<=\s)(?=\S)")
_PROSE = (_PARAGRAPH, _SENTENCE, _WORD)
_LINES = (_PARAGRAPH, _LINE, _SENTENCE, _WORD)  # lists, fences, tables, quotes: a line means something

_INLINE = MarkdownIt("commonmark")
_BLOCKS = MarkdownIt("commonmark").enable("table").disable("inline")  # only headings are read further


@dataclass(frozen=True)
class Chunk:
    """One passage. `title` is the path of headings above it, `position` its place in the document."""

    title: str
    text: str
    position: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def embedding_text(self) -> str:
        """What is embedded: a passage is often about what only its title names."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class _Block:
    """A part of a section that is kept whole where it fits, and else cut at the first `bounds` that do."""

    text: str
    bounds: tuple[re.Pattern[str], ...] = _PROSE


@dataclass(frozen=True)
class _Section:
    """What stands under one heading."""

    title: str
    blocks: Sequence[_Block]
    metadata: dict[str, str] = field(default_factory=dict)


def chunk_document(
    content: str, media_type: str, *, title: str | None, max_chars: int = 900, min_chars: int = 200
) -> list[Chunk]:
    """Split a document of type text/markdown, text/plain or application/jsonl.

    A section's blocks share chunks of up to `max_chars`; what is left over at its end takes blocks or
    sentences from the chunk before, until it has `min_chars`. Sections never share a chunk, and a heading
    without text gives none. Markdown: titles are paths, "Title > Section", under `title` or the first
    heading; front matter, thematic breaks and comments are left out. JSON lines: objects with `text`, and optionally
    `title`, `id` and other strings, which become metadata; other values are ignored.

    Raises InvalidDocument for another type or a bad line (with its number and what is wrong),
    InvalidConfiguration unless 0 <= min_chars <= max_chars and 1 <= max_chars.
    """
    if not 0 <= min_chars <= max_chars or max_chars < 1:
        raise InvalidConfiguration(f"chunks of {min_chars} to {max_chars} characters are impossible")
    sections = _READERS.get(media_type)
    if sections is None:
        raise InvalidDocument(f"a document of type {media_type!r} cannot be read")
    chunks: list[Chunk] = []
    for section in sections(_tidy(content.removeprefix("\ufeff")), (title or "").strip()):
        pieces = [p for block in section.blocks for p in _pieces(block.text, max_chars, block.bounds)]
        for text in _packed(pieces, max_chars, min_chars):
            heading = section.title[:MAX_TITLE_CHARS]
            chunks.append(Chunk(heading, text, len(chunks), dict(section.metadata)))
    return chunks


def _tidy(text: str) -> str:
    """Unix line ends, and no white space before them: a blank line is empty."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)


# --- the media types --------------------------------------------------------------------------------------


def _plain_sections(text: str, title: str) -> Iterator[_Section]:
    yield _Section(title, [_Block(text)])


def _markdown_sections(text: str, title: str) -> Iterator[_Section]:
    lines = _without_front_matter(text.split("\n"))
    headings: list[tuple[int, str]] = []  # the path: (level, text), levels ascending
    blocks: list[_Block] = []
    tokens = _BLOCKS.parse("\n".join(lines))
    for number, token in enumerate(tokens):
        if token.level or token.map is None or token.type == "hr" or _is_comment(token):
            continue
        if token.type != "heading_open":
            text = "\n".join(lines[slice(*token.map)]).rstrip() + "\n\n"
            blocks.append(_Block(text, _PROSE if token.type == "paragraph_open" else _LINES))
            continue
        yield _Section(_path(title, headings), blocks)
        blocks = []
        level = int(token.tag[1])
        heading = _heading_text(tokens[number + 1].content)  # a heading opens, then its inline content
        headings = [h for h in headings if h[0] < level] + [(level, heading)]
    yield _Section(_path(title, headings), blocks)


def _is_comment(token: Token) -> bool:
    return token.type == "html_block" and re.fullmatch(r"\s*<!--.*?-->\s*", token.content, re.S) is not None


def _path(title: str, headings: Sequence[tuple[int, str]]) -> str:
    names = [name for _, name in headings if name]
    if title and names[:1] != [title]:
        names.insert(0, title)
    return " > ".join(names)


def _heading_text(source: str) -> str:
    """A heading without its markup: `The *big* net` -> The big net."""
    children = _INLINE.parseInline(source)[0].children or []
    parts = [
        " " if child.type.endswith("break") else child.content for child in children if child.type != "html_inline"
    ]
    return " ".join("".join(parts).split())


def _without_front_matter(lines: list[str]) -> list[str]:
    """Drop a leading YAML block between two `---`; anything else that starts so is text and stays."""
    if lines[0].rstrip() != "---":
        return lines
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() in ("---", "..."):
            return lines[number + 1 :]
        if not re.match(r"[\w-]+\s*:|\s|- |#|$", line):
            return lines
    return lines


def _jsonl_sections(text: str, title: str) -> Iterator[_Section]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            record = _record(line, number)
            others = {k: v for k, v in record.items() if k not in ("text", "title") and isinstance(v, str)}
            yield _Section(record.get("title", "").strip() or title, [_Block(_tidy(record["text"]))], others)


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidDocument(f"line {number} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise InvalidDocument(f"line {number} is a JSON {type(record).__name__}, not an object")
    if "text" not in record:
        raise InvalidDocument(f"line {number} has no `text`")
    for name in ("text", "title", "id"):
        if name in record and not isinstance(record[name], str):
            raise InvalidDocument(f"line {number}: `{name}` must be a string, got {record[name]!r:.80}")
    return record


_READERS = {
    "text/markdown": _markdown_sections,
    "text/plain": _plain_sections,
    "application/jsonl": _jsonl_sections,
}


# --- cutting and joining ----------------------------------------------------------------------------------


def _pieces(text: str, max_chars: int, bounds: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """Parts that fit, cut at the coarsest bounds that make them fit; joined they are the text again."""
    if len(text.strip()) <= max_chars:
        yield text
    elif not bounds:
        for start in range(0, len(text), max_chars):
            yield text[start : start + max_chars]
    else:
        for part in bounds[0].split(text):
            yield from _pieces(part, max_chars, bounds[1:])


def _packed(pieces: Sequence[str], max_chars: int, min_chars: int) -> Iterator[str]:
    """Join neighbours into texts of up to `max_chars`; a last one that is tiny takes from the one before."""
    groups: list[list[str]] = []
    filled = ""
    for piece in pieces:
        if groups and len((filled + piece).strip()) <= max_chars:
            groups[-1].append(piece)
            filled += piece
        else:
            groups.append([piece])
            filled = piece
    if len(groups) > 1:
        _even_out(groups[-2], groups[-1], max_chars, min_chars)
    for group in groups:
        if text := "".join(group).strip():
            yield text


def _even_out(before: list[str], last: list[str], max_chars: int, min_chars: int) -> None:
    while _size(last) < min_chars <= _size(before[:-1]) and _size([before[-1], *last]) <= max_chars:
        last.insert(0, before.pop())


def _size(pieces: Sequence[str]) -> int:
    return len("".join(pieces).strip())
