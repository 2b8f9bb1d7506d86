"""`ruvllm memory` over a serial log: what it shows, how it names nodes, and that it carries memory whole."""

import asyncio
import re
import sys
from datetime import UTC, datetime

import orjson
import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.errors import InvalidConfiguration
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeAdded, EdgeContributed, NodeAdded, name_edge
from ruvllm.streams.cli import main
from ruvllm.streams.memory_tools.backup import back_up, restore
from ruvllm.streams.memory_tools.picture import around, dot, places
from ruvllm.streams.memory_tools.reading import Folded, fold_file
from ruvllm.streams.serial import SerialLog, SerialSender
from ruvllm.streams.settings import load_settings
from ruvllm.streams.wiring import names_of

EMBEDDER = HashingEmbedder()
FLAGS = {"profile": "tiny", "retrieval.embedder": "hashing"}
NAMES = names_of(load_settings(FLAGS))
TIME = datetime.now(UTC)  # what was learnt just now has hardly decayed
KEEPER, LAMP, GOAT, WHO = "n-aaaaaa01", "n-aaaaaa02", "n-bbbbbb01", "n-cccccc01"
CHANGE = {"time": TIME, "change_id": "ch"}


def node(node_id, text, made_by="", **fields):
    (vector,) = EMBEDDER.embed([text])
    given = {"node_kind": "question" if made_by else "document", "title": "Lamps", "embedder": EMBEDDER.name}
    return NodeAdded(**CHANGE, node_id=node_id, text=text, made_by=made_by, vector=vector, **{**given, **fields})


def named(relation, source, target):
    edge_id = name_edge("default", relation, source, target)
    return {**CHANGE, "edge_id": edge_id, "source": source, "target": target, "relation": relation}


def lesson(relation, source, target, client, amount):
    return EdgeContributed(**named(relation, source, target), made_by="ix", client=client, amount=amount, outcomes=1)


WORLD = (
    node(KEEPER, "Osk Arrin keeps the lamp.", document_id="lamps.md", metadata={"lang": "en"}),
    node(LAMP, 'The "great" lamp\\of Vellen.', document_id="lamps.md", position=1),
    node(GOAT, "A goat."),
    node(WHO, "Who keeps the lamp?", "ix-1"),
    EdgeAdded(**named("follows", KEEPER, LAMP), weight=0.5),
    EdgeAdded(**named("follows", LAMP, GOAT), weight=0.25),
    EdgeAdded(**named("follows", GOAT, "n-unknown"), weight=0.9),
    lesson("answered_by", WHO, KEEPER, "ann", 1.0),
    lesson("answered_by", WHO, KEEPER, "bob", 0.5),
    lesson("co_retrieved", KEEPER, GOAT, "ann", -1.0),
)


@pytest.fixture
def ruvllm(monkeypatch, capsys, tmp_path):
    """Runs the command line: its exit status, what it printed and what it complained of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("RUVLLM_HOME", str(tmp_path / "home"))
    sets = [word for name, value in FLAGS.items() for word in ("--set", f"{name}={value}")]

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, "memory", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def log(tmp_path):
    return log_of(tmp_path / "log.jsonl", *WORLD)


def log_of(file, *events):
    log = SerialLog(file)
    asyncio.run(SerialSender(log, NAMES).send([Emit(event) for event in events]))
    log.close()
    return file


def new_memory():
    return Memory(EMBEDDER.name, EMBEDDER.dimension)


def test_stats_count_by_kind_and_relation(ruvllm, log):
    # given a log; when its memory is counted; then nodes, edges and outcomes are told apart, and its source is named
    status, out, _ = ruvllm("stats", "--json", "--serial-log", log)
    found = orjson.loads(out)
    assert status == 0
    assert found["tenant"]["nodes_by_kind"] == {"document": 3, "question": 1}
    assert (found["tenant"]["documents"], found["tenant"]["interactions"], found["tenant"]["clients"]) == (1, 1, 2)
    assert (found["tenant"]["edges"], found["tenant"]["waiting"], found["tenant"]["idle"]) == (5, 1, 1)
    assert found["tenant"]["edges_by_relation"]["answered_by"] | {"mean_weight": 0} == {
        "edges": 1, "learnt": 1, "use": 2, "mean_weight": 0,
    }  # fmt: skip
    assert (found["memory"]["folded"], found["memory"]["offsets"]) == (10, {"0": 10})
    # and the same is written for people, and for a tenant of whom nothing is known
    _, out, _ = ruvllm("stats", "--serial-log", log)
    assert "4 nodes (3 document, 1 question) of 1 documents and 1 interactions" in out
    status, out, _ = ruvllm("stats", "--tenant", "nobody", "--serial-log", log)
    assert (status, "nobody: 0 nodes (none)" in out) == (0, True)


def test_a_node_is_shown_with_its_makers_and_what_each_client_taught_its_edges(ruvllm, log):
    # given a node named by the start of its id; when shown; then all that is known of it is there
    status, out, _ = ruvllm("show", WHO[:8], "--json", "--serial-log", log)
    found = orjson.loads(out)
    assert status == 0
    assert (found["node_id"], found["text"], found["use"]) == (WHO, "Who keeps the lamp?", 2)
    assert [member["made_by"] for member in found["members"]] == ["ix-1"]
    (edge,) = found["edges"]
    assert edge["learnt"] == pytest.approx({"ann": 1.0, "bob": 0.5}, abs=1e-3)
    assert edge["weight"] == pytest.approx(1 - 2.718281828**-1.5, abs=1e-3)
    # and for people
    _, out, _ = ruvllm("show", KEEPER, "--serial-log", log)
    assert "document of default, lamps.md at 0" in out and "lang: en" in out
    assert re.search(rf"0\.500\s+follows\s+-> {LAMP}\s+0\.50", out)
    assert re.search(rf"0\.77\d\s+answered_by\s+<- {WHO}\s+ann \+1\.000, bob \+0\.500\s+2", out)
    assert re.search(r"0\.000\s+co_retrieved.* ann -1\.000\s+1\s+leads nowhere", out)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("n-aaaaaa", f"2 nodes of tenant 'default' start with 'n-aaaaaa'\n  {KEEPER}, {LAMP}."),
        ("n-ffffff", "no node of tenant 'default' starts with 'n-ffffff'"),
        ("n-bbb", "no node of tenant 'default' has the id 'n-bbb'\n  To name a node by the start of its id give 6"),
    ],
)
def test_a_name_that_is_not_one_nodes_is_refused(ruvllm, log, name, complaint):
    status, _, err = ruvllm("show", name, "--serial-log", log)
    assert (status, complaint in err) == (2, True)


def test_nodes_of_another_tenant_are_not_found(ruvllm, log):
    status, _, err = ruvllm("show", WHO, "--tenant", "other", "--serial-log", log)
    assert (status, "no node of tenant 'other'" in err) == (2, True)


def test_neighbours_are_those_that_retrieval_reaches(ruvllm, log):
    # given a question; when its neighbours are asked for; then the heaviest path is first, and no dead edge is walked
    _, out, _ = ruvllm("neighbours", WHO, "--hops", "3", "--json", "--serial-log", log)
    found = orjson.loads(out)["neighbours"]
    assert [(row["node_id"], row["hops"]) for row in found] == [(KEEPER, 1), (LAMP, 2), (GOAT, 3)]
    assert found[1]["weight"] == pytest.approx(found[0]["weight"] / 2)
    # and so many edges away, of such relations, and so many as asked for
    for words, wanted in (
        (["--hops", "1"], [KEEPER]),
        (["--limit", "2"], [KEEPER, LAMP]),
        (["--relation", "follows"], []),
    ):
        _, out, _ = ruvllm("neighbours", WHO, *words, "--json", "--serial-log", log)
        assert [row["node_id"] for row in orjson.loads(out)["neighbours"]] == wanted
    _, out, _ = ruvllm("neighbours", WHO, "--serial-log", log)
    assert re.search(rf"1\s+document\s+{KEEPER}\s+Osk Arrin keeps the lamp\.", out)


def test_edges_are_ordered_by_weight_or_by_use(ruvllm, log):
    # given edges; when the top ones are asked for; then by weight or by outcomes, and those that wait are left out
    def ends(*words):
        _, out, _ = ruvllm("edges", "--json", *words, "--serial-log", log)
        return [(e["source"], e["target"]) for e in orjson.loads(out)["edges"]]

    heaviest = [(WHO, KEEPER), (KEEPER, LAMP), (LAMP, GOAT), (KEEPER, GOAT)]
    assert ends() == heaviest
    assert ends("--by", "use") == [heaviest[0], heaviest[3], heaviest[1], heaviest[2]]
    assert ends("--relation", "follows", "--limit", "1") == [(KEEPER, LAMP)]
    _, out, _ = ruvllm("edges", "--serial-log", log)
    assert re.search(rf"answered_by\s+{WHO}\s+{KEEPER}", out)


def test_an_export_is_imported_whole_and_once(ruvllm, log, tmp_path):
    # given an export; when imported into an empty log; then memory has its digest
    file, other = tmp_path / "out" / "memory.jsonl", log_of(tmp_path / "other.jsonl")
    status, out, _ = ruvllm("export", file, "--serial-log", log)
    assert (status, "4 nodes, 5 edges" in out) == (0, True)
    status, out, _ = ruvllm("import", file, "--serial-log", other)
    assert (status, "10 changes" in out, "as in the export" in out) == (0, True, True)
    assert fold_file(other, NAMES, new_memory).memory.digest() == fold_file(log, NAMES, new_memory).memory.digest()
    # and a second time it is refused, and merged it changes nothing
    before = other.read_bytes()
    status, _, err = ruvllm("import", file, "--serial-log", other)
    assert (status, "holds 4 of the 4 nodes and 5 of the 5 edges" in err, "--merge" in err) == (2, True, True)
    status, out, _ = ruvllm("import", file, "--merge", "--serial-log", other)
    assert (status, "0 nodes and 0 edges in 0 changes" in out) == (0, True)
    assert other.read_bytes() == before


def test_an_import_beside_other_memory_says_so(ruvllm, log, tmp_path):
    # given a log that knows something else; when an export is imported; then both are known
    other = log_of(tmp_path / "other.jsonl", node("n-dddddd01", "Bread and salt."))
    ruvllm("export", tmp_path / "memory.jsonl", "--serial-log", log)
    status, out, _ = ruvllm("import", tmp_path / "memory.jsonl", "--serial-log", other)
    assert (status, "of this and what else is known" in out) == (0, True)
    assert fold_file(other, NAMES, new_memory).memory.stats().nodes == 5


def test_a_log_that_is_not_there_is_named(ruvllm, tmp_path):
    status, _, err = ruvllm("stats", "--serial-log", tmp_path / "nowhere.jsonl")
    assert (status, "nowhere.jsonl does not exist" in err) == (2, True)
    assert not (tmp_path / "nowhere.jsonl").exists()


def test_what_no_fold_takes_is_left_out_and_told_apart_from_the_result(ruvllm, tmp_path):
    # given a log with changes of another embedder; when counted; then they are left out, and standard error says why
    log = log_of(tmp_path / "log.jsonl", *WORLD[:1], *(node(f"n-{i}", "Bread.", embedder="another") for i in range(3)))
    status, out, err = ruvllm("stats", "--json", "--serial-log", log)
    found = orjson.loads(out)["memory"]
    assert (status, found["nodes_of_all"], found["folded"], found["left_out"]) == (0, 1, 4, 3)
    assert err.count("another") == 1


# --- pictures -------------------------------------------------------------------------------------------


def neighbourhood(log, centre=WHO, **limits):
    memory = fold_file(log, NAMES, new_memory).memory
    found = memory.node("default", centre)
    return around(memory, found, TIME.timestamp(), **{"hops": 3, "most": 9, **limits})


def test_dot_names_nodes_and_weighs_edges(ruvllm, log):
    # given a neighbourhood; when written for Graphviz; then each node and edge is one line, and text is escaped
    status, out, _ = ruvllm("picture", WHO, "--hops", "3", "--serial-log", log)
    lines = out.splitlines()
    assert (status, lines[0], lines[-1]) == (0, "digraph memory {", "}")
    assert out.count("tooltip=") == 4 and out.count(" -> ") == 4
    assert r'label="Lamps: The \"great\" lamp\\of Vellen."' in out
    assert f'"{LAMP}" -> "{GOAT}" [penwidth=1.25, label="follows 0.25"]' in out
    assert re.search(rf'"{KEEPER}" -> "{GOAT}" .*dir="none"', out)  # co_retrieved has no direction
    assert out == dot(neighbourhood(log)).replace("", "")


def test_a_drawing_puts_each_node_on_the_circle_of_its_hops(log):
    at = places(neighbourhood(log))
    radii = {node_id: round((x * x + y * y) ** 0.5, 6) for node_id, (x, y) in at.items()}
    assert radii == {WHO: 0, KEEPER: 1, LAMP: 2, GOAT: 3}
    # and nodes of one circle are apart
    at = places(neighbourhood(log, KEEPER))
    assert len({(round(x, 6), round(y, 6)) for x, y in at.values()}) == len(at) == 4


@pytest.mark.parametrize(("ending", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".dot", b"digraph")])
def test_a_picture_is_written_as_its_ending_says(ruvllm, log, tmp_path, ending, start):
    if ending != ".dot":
        pytest.importorskip("matplotlib")
    out = tmp_path / "new" / f"lamp{ending}"
    status, said, _ = ruvllm("picture", WHO, "--out", out, "--hops", "3", "--serial-log", log)
    assert (status, "4 nodes, 4 edges" in said) == (0, True)
    assert out.read_bytes().startswith(start)


def test_a_drawing_is_the_same_file_each_time_and_its_text_stays_text(log, tmp_path):
    pytest.importorskip("matplotlib")
    from ruvllm.streams.memory_tools.drawing import draw

    for name in ("one.svg", "two.svg"):
        draw(neighbourhood(log), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"Osk Arrin" in (tmp_path / "one.svg").read_bytes()


def test_a_drawing_without_matplotlib_says_what_is_missing(ruvllm, log, tmp_path, monkeypatch):
    # given no Matplotlib; when a drawing is asked for; then that is said with status 3, and DOT is there all the same
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "ruvllm.streams.memory_tools.drawing", raising=False)
    status, _, err = ruvllm("picture", WHO, "--out", tmp_path / "lamp.svg", "--serial-log", log)
    assert (status, "ruvllm[train]" in err, "missing_requirement" in err) == (3, True, True)
    assert ruvllm("picture", WHO, "--out", tmp_path / "lamp.dot", "--serial-log", log)[0] == 0


def test_a_picture_of_another_form_is_refused(ruvllm, log, tmp_path):
    status, _, err = ruvllm("picture", WHO, "--out", tmp_path / "lamp.gif", "--serial-log", log)
    assert (status, "lamp.gif ends in none of .dot, .svg, .png" in err) == (2, True)


# --- backups --------------------------------------------------------------------------------------------


SPANS = {"0": (0, 20)}


def restored(folder, target, log_id="this/log", spans=SPANS):
    return restore(folder, [target], log_id=log_id, spans=spans, new_memory=new_memory, keep=2)


@pytest.fixture
def backups(log, tmp_path):
    memory = fold_file(log, NAMES, new_memory).memory
    back_up(Folded(memory, "this/log", SPANS, {"0": 10}), tmp_path / "backups")
    return tmp_path / "backups"


def test_a_backup_is_put_where_workers_look(backups, tmp_path):
    # given a backup of this log; when restored; then it is the worker's newest snapshot, and the rest is to be folded
    done = restored(backups, tmp_path / "worker")
    assert (done.behind, done.memory.stats().nodes) == (10, 4)
    (snapshot,) = (tmp_path / "worker").iterdir()
    assert re.fullmatch(r"0000000001-restored-\w+", snapshot.name)


@pytest.mark.parametrize(
    ("log_id", "spans", "reason"),
    [
        ("that/log", SPANS, "its log is 'this/log', here it is 'that/log'$"),
        ("this/log", {"0": (0, 5)}, "it goes on at offset 10 of partition 0, which has 0 to 5"),
        ("this/log", {"0": (0, 20), "1": (3, 9)}, "it goes on at offset 0 of partition 1, which has 3 to 9"),
    ],
)
def test_a_backup_of_another_log_is_not_restored(backups, tmp_path, log_id, spans, reason):
    # given a backup that does not fit the log; when restored; then why is said, and nothing is put anywhere
    with pytest.raises(InvalidConfiguration) as refused:
        restored(backups, tmp_path / "worker", log_id, spans)
    assert re.search(reason, refused.value.message)
    assert "folded from the log" in refused.value.hint
    assert not (tmp_path / "worker").exists()


def test_a_damaged_backup_and_an_empty_folder_are_not_restored(backups, tmp_path):
    with pytest.raises(InvalidConfiguration, match="it holds no snapshot"):
        restored(tmp_path / "nothing", tmp_path / "worker")
    (snapshot,) = backups.iterdir()
    with (snapshot / "edges.jsonl").open("ab") as edges:
        edges.write(b"\n")
    with pytest.raises(InvalidConfiguration, match="its files are not what was written"):
        restored(backups, tmp_path / "worker")


def test_backups_stay_until_told_otherwise(backups, log):
    found = Folded(fold_file(log, NAMES, new_memory).memory, "this/log", SPANS, {"0": 10})
    for _ in range(3):
        back_up(found, backups)
    assert len(list(backups.iterdir())) == 4
    back_up(found, backups, keep=1)
    assert len(list(backups.iterdir())) == 1
