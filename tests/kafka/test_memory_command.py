"""`ruvllm memory` against running workers: it sees what they see, and carries it to another log on the same broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from ruvllm.schemas.ids import new_id
from ruvllm.streams.cli import main
from ruvllm.streams.memory_tools import importing
from ruvllm.streams.proof.cluster import Cluster, remove_topics

pytestmark = pytest.mark.kafka

LAMPS = "# Lamps\n\n## The keeper\n\nOsk Arrin keeps the lamp of Vellen.\n\n## The oil\n\nGoats give no oil.\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ruvllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an installation: its exit status, what it printed and what it complained of."""

    def run(flags: Mapping[str, str], *words: object) -> tuple[int, str, str]:
        sets = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def stats(ruvllm: Run, flags: Mapping[str, str]) -> dict[str, Any]:
    status, out, err = ruvllm(flags, "memory", "stats", "--json")
    assert status == 0, err
    found: dict[str, Any] = orjson.loads(out)
    return found


def test_memory_is_seen_carried_and_kept(
    cluster: Cluster, ruvllm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHANGES_AT_ONCE", 2)  # several transactions
    # given a document that the workers of an installation have taken in
    here = cluster.all_flags
    (tmp_path / "command-lamps.md").write_text(LAMPS, "utf-8")
    assert ruvllm(here, "ingest", tmp_path / "command-lamps.md")[0] == 0
    # when looked at; then its passages are there, and the edge between them
    found = stats(ruvllm, here)
    assert found["tenant"]["nodes_by_kind"]["document"] >= 2
    assert found["memory"]["left_out"] == 0
    _, out, _ = ruvllm(here, "memory", "edges", "--relation", "follows", "--limit", "1000", "--json")
    shown = [show(ruvllm, here, edge["source"]) for edge in orjson.loads(out)["edges"]]
    assert any("Osk Arrin keeps the lamp of Vellen." in node["text"] for node in shown)
    # and when exported and imported into a new installation; then it is the same memory, and only once
    file = tmp_path / "memory.jsonl"
    assert ruvllm(here, "memory", "export", file)[0] == 0
    there = {**here, "kafka.prefix": f"t{new_id().lower()[-10:]}", "home": str(tmp_path / "home")}
    try:
        assert ruvllm(there, "topics", "--create")[0] in (0, 1)
        status, out, err = ruvllm(there, "memory", "import", file)
        assert (status, "as in the export" in out) == (0, True), out + err
        assert stats(ruvllm, there)["memory"]["digest"] == orjson.loads(file.read_bytes().splitlines()[0])["digest"]
        status, _, err = ruvllm(there, "memory", "import", file)
        assert (status, "--merge" in err) == (2, True)
        keep_and_put_back(ruvllm, there, here, tmp_path)
    finally:
        asyncio.run(remove_topics(cluster.bootstrap, there["kafka.prefix"]))


def keep_and_put_back(ruvllm: Run, there: Mapping[str, str], here: Mapping[str, str], tmp_path: Path) -> None:
    # when backed up and put back; then the next look starts from it, with nothing to fold
    digest = stats(ruvllm, there)["memory"]["digest"]
    status, out, _ = ruvllm(there, "memory", "backup", tmp_path / "backup")
    assert (status, digest in out) == (0, True)
    status, out, err = ruvllm(there, "memory", "restore", tmp_path / "backup")
    assert (status, "with 0 places of the log to fold" in out) == (0, True), err
    found = stats(ruvllm, there)["memory"]
    assert (found["digest"], found["folded"], found["snapshot"] is not None) == (digest, 0, True)
    # and the other installation, of another log, does not take it
    status, _, err = ruvllm(here, "memory", "restore", tmp_path / "backup")
    assert (status, "its log is" in err, "memory is folded from the log" in err) == (2, True, True)


def show(ruvllm: Run, flags: Mapping[str, str], node_id: str) -> dict[str, Any]:
    status, out, err = ruvllm(flags, "memory", "show", node_id, "--json")
    assert status == 0, err
    found: dict[str, Any] = orjson.loads(out)
    return found
