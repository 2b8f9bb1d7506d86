"""Files as document commands: each becomes one, or the reason why not is said before anything is sent."""

import pytest

from ruvllm.errors import InvalidDocument
from ruvllm.streams.ingest import documents_in


@pytest.fixture
def folder(tmp_path):
    """A folder of documents of each kind, one below, and something else."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("# Lamps\n\nOsk keeps the lamp.", "utf-8")
    (tmp_path / "a.txt").write_text("Nets are mended on Mondays.", "utf-8")
    (tmp_path / "deep" / "c.jsonl").write_text('{"text": "灯"}\n', "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def refusal(*paths):
    with pytest.raises(InvalidDocument) as caught:
        documents_in(paths)
    assert caught.value.hint
    return caught.value.message


def test_a_folder_gives_every_document_below_it(folder):
    # given a folder; when read; then its documents come by name, as what they are, and other files are left out
    found = documents_in([folder], tenant="harbour")
    assert [(d.document_id, d.media_type) for d in found] == [
        ("a.txt", "text/plain"),
        ("b.md", "text/markdown"),
        ("deep/c.jsonl", "application/jsonl"),
    ]
    assert found[2].content == '{"text": "灯"}\n'
    assert {d.tenant for d in found} == {"harbour"}
    assert len({d.command_id for d in found}) == 3


def test_a_file_is_named_after_itself(folder):
    # given files, one named twice; when read; then each is one document under its own name
    found = documents_in([folder / "deep" / "c.jsonl", folder / "b.md", folder / "b.md"])
    assert [d.document_id for d in found] == ["c.jsonl", "b.md"]


def test_two_files_of_one_name_are_refused(folder):
    # given two folders with a file of the same name; when both are named; then neither is silently lost
    (folder / "deep" / "b.md").write_text("# Nets", "utf-8")
    message = refusal(folder / "b.md", folder / "deep" / "b.md")
    assert "would both be document 'b.md'" in message
    assert str(folder / "deep" / "b.md") in message


def test_a_path_that_is_missing_is_named(folder):
    # given a path that is not there; when read; then it is named
    assert "nowhere.md does not exist" in refusal(folder, folder / "nowhere.md")


def test_a_file_of_another_kind_is_named_with_those_that_can_be_read(folder):
    # given a picture, and a folder that holds nothing else; when read; then the kinds are named
    assert "picture.png is not one of .md, .markdown, .txt, .jsonl" in refusal(folder / "picture.png")
    (folder / "empty").mkdir()
    assert "empty holds no document" in refusal(folder / "empty")


def test_a_file_that_is_not_utf8_is_named_with_the_byte(folder):
    # given a file in another encoding; when read; then the first byte that does not fit is named
    (folder / "old.txt").write_bytes("Où est Osk ?".encode("latin-1"))
    assert "old.txt is not UTF-8: byte 1 is 0xf9" in refusal(folder)


@pytest.mark.parametrize("name", ["x" * 126 + ".md", "a\nb.md", "\udcff.md"])
def test_a_name_that_cannot_be_an_id_is_refused(folder, name):
    # given a file whose name is too long, or holds control characters or bytes that are no text; when read
    (folder / name).write_text("x", "utf-8")
    # then the error says what an id is
    assert "cannot be sent as document" in refusal(folder)


def test_a_folder_that_is_named_like_a_document_is_a_folder(folder):
    # given a folder with a document's suffix; when read; then what lies in it counts
    (folder / "notes.md").mkdir()
    (folder / "notes.md" / "d.txt").write_text("x", "utf-8")
    assert "notes.md/d.txt" in [d.document_id for d in documents_in([folder])]
