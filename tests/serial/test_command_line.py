"""The command line where no broker is needed: what it prints, and how it ends."""

import sys
from pathlib import Path

import pytest
from rich.table import Table

from ruvllm.schemas.request import Response
from ruvllm.schemas.wire import decode
from ruvllm.streams import describe
from ruvllm.streams.broker.contract import BrokerStatus
from ruvllm.streams.cli import main, service
from ruvllm.streams.cli.context import Context
from ruvllm.streams.processes import Processes
from ruvllm.streams.settings import setting_names
from tests.serial.island import LAMPS

NOBODY = ("--set", "kafka.bootstrap_servers=127.0.0.1:1")
LETTER = Path(__file__).parents[2] / "README.md"  # any document will do: it is never sent
SERIAL = ("--profile", "tiny", "--set", "generation.backend=echo", "--set", "retrieval.embedder=hashing")


@pytest.fixture
def ruvllm(monkeypatch, capsys, tmp_path):
    """Runs the command line in a home of its own: its exit status, what it printed and what it complained of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("RUVLLM_HOME", str(tmp_path / "home"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ruvllm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def log(ruvllm, tmp_path):
    """A serial log with one document."""
    (tmp_path / "lamps.md").write_text(LAMPS, "utf-8")
    file = tmp_path / "log.jsonl"
    status, out, _ = ruvllm(*SERIAL, "ingest", tmp_path / "lamps.md", "--serial-log", file)
    assert (status, "1 added; 2 passages added, 0 removed" in out) == (0, True)
    return file


def test_config_prints_every_setting_with_its_value_and_origin(ruvllm, tmp_path):
    # given settings from a file, a variable and a flag; when printed; then each says where it is from
    (tmp_path / "ruvllm.toml").write_text("[kafka]\nport = 1234\n")
    status, out, _ = ruvllm("--set", "kafka.prefix=mine", "config")
    rows = {line.split()[0]: line for line in out.splitlines()[1:] if line.split()}
    assert status == 0
    assert [name for name in setting_names() if name not in rows] == []
    assert rows["kafka.prefix"].split() == ["kafka.prefix", "mine", "flag"]
    assert rows["kafka.port"].split() == ["kafka.port", "1234", "ruvllm.toml"]
    assert rows["kafka.partitions"].split() == ["kafka.partitions", "16", "default"]
    assert rows["home"].split()[-1] == "environment"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--set", "kafka.prefx=x", "config"], "kafka.prefx = 'x' (flag)"),
        (["--set", "kafka.prefix", "config"], "'kafka.prefix' has no `=`"),
        (["--config", "nowhere.toml", "config"], "nowhere.toml"),
        (["ingest", "nowhere.md"], "nowhere.md does not exist"),
        (["worker", "kitchen"], "'kitchen'"),
        (["models", "verify", "lfm2-350m"], "model lfm2-350m is not in"),
        (["models", "verify", "gpt-9"], "gpt-9"),
        ([*SERIAL, "ask", "--serial", "--temperature", "9", "Who?"], "`temperature` = 9.0"),
        ([*SERIAL, "ask", "--serial", "--grounding", "never", "Who?"], "`grounding` = 'never'"),
        ([*NOBODY, "topics"], "no Kafka broker answers at 127.0.0.1:1"),
        ([*NOBODY, "ask", "Who?"], "no Kafka broker answers at 127.0.0.1:1"),
        ([*NOBODY, "docs", "list"], "no Kafka broker answers at 127.0.0.1:1"),
        ([*NOBODY, "docs", "rm", "a.md"], "no Kafka broker answers at 127.0.0.1:1"),
        ([*NOBODY, "ingest", LETTER], "no Kafka broker answers at 127.0.0.1:1"),
        ([*NOBODY, "ingest", "--no-wait", LETTER], "no Kafka broker answers at 127.0.0.1:1"),
    ],
)
def test_an_error_ends_in_one_readable_message_and_status_2(ruvllm, words, names):
    # given something wrong; when run; then it is named, with its code and what to do, and there is no traceback
    status, out, err = ruvllm(*words)
    assert status == 2
    assert err.startswith("ruvllm: ")
    assert names in err
    assert "Traceback" not in out + err
    assert len(err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("form", "page"),
    [
        ("table", "topology.md"),
        ("mermaid", "topology.mmd"),
        ("asyncapi", "asyncapi.json"),
        ("jsonschema", "schemas.json"),
    ],
)
def test_topology_prints_what_the_reference_holds(ruvllm, form, page):
    # given a form; when the topology is printed in it; then it is the reference page
    status, out, _ = ruvllm("topology", "--format", form)
    assert (status, out) == (0, describe.reference()[page])


def test_a_question_is_answered_without_a_broker(ruvllm, log):
    # given a serial log with a document; when asked; then the answer is shown with sources, route and times
    status, out, _ = ruvllm(*SERIAL, "ask", "--serial", "--log", log, "Who keeps the great lamp?")
    assert status == 0
    first, *others = out.splitlines()
    assert first == "Osk Arrin keeps the great lamp of Vellen and lights it at dusk."
    assert "Lamps > The keeper" in others[0]
    assert "tier 135m" in out and "milliseconds: retrieve" in out


def test_an_answer_can_be_had_as_the_event(ruvllm, log):
    # given the flag for it; when asked; then the whole response is one line of JSON
    status, out, _ = ruvllm(*SERIAL, "ask", "--serial", "--log", log, "--json", "Who keeps the great lamp?")
    response = decode((Response,), out.encode())
    assert (status, response.ok, response.tier) == (0, True, "135m")
    assert response.sources


def test_an_answer_that_is_an_error_has_status_1(ruvllm, log):
    # given a tier that does not exist; when asked; then the response's error is shown
    status, out, _ = ruvllm(*SERIAL, "ask", "--serial", "--log", log, "--tiers", "7b", "Who?")
    assert status == 1
    assert "unknown_tier" in out and "ruvllm config" in out


def test_a_deadline_is_heeded_without_a_broker_too(ruvllm, log):
    # given a deadline that has passed; when asked in this process; then the answer is its error
    status, out, _ = ruvllm(*SERIAL, "ask", "--serial", "--log", log, "--deadline", "-1", "Who?")
    assert status == 1
    assert "deadline_passed" in out


def test_ingesting_again_says_that_nothing_changed_and_a_bad_document_has_status_1(ruvllm, log, tmp_path):
    # given a known document and one that cannot be read; when ingested; then each is counted, the bad one named
    (tmp_path / "bad.jsonl").write_text("{}\n")
    words = ("ingest", tmp_path / "lamps.md", tmp_path / "bad.jsonl", "--serial-log", log)
    status, out, _ = ruvllm(*SERIAL, *words)
    assert status == 1
    assert "1 unchanged, 1 failed; 0 passages added" in out
    assert "bad.jsonl: line 1 has no `text`" in out


def test_what_users_write_is_printed_as_it_is(ruvllm, log, tmp_path, capsys):
    # given a document whose name looks like markup and like a picture, and cannot be read; when ingested
    (tmp_path / "[").mkdir()
    (tmp_path / "[" / "etc] :lock: [red].jsonl").write_text("{}\n")
    status, out, _ = ruvllm(*SERIAL, "ingest", tmp_path, "--serial-log", log)
    # then it is named as it is
    assert status == 1
    assert "[/etc] :lock: [red].jsonl: line 1 has no `text`" in out
    # and so it is in a table
    table = Table("title")
    table.add_row("[/etc/hosts] notes :lock:")
    Context(profile=None, pairs=(), file=None).console.print(table)
    assert "[/etc/hosts] notes :lock:" in capsys.readouterr().out


class OwnBroker:
    """A broker of this machine, as `up` uses it."""

    kind = "local"
    bootstrap = "127.0.0.1:1"

    def __init__(self, *, running):
        self.running = running

    def start(self):
        self.running = True

    def stop(self):
        self.running = False

    def status(self):
        return BrokerStatus(self.kind, self.bootstrap, running=self.running)


@pytest.mark.parametrize("running", [False, True])
def test_up_that_is_interrupted_stops_the_broker_that_it_started(ruvllm, monkeypatch, running):
    # given a broker that runs or does not; when `up` is interrupted while the processes start
    def interrupted(_):
        raise KeyboardInterrupt

    broker = OwnBroker(running=running)
    monkeypatch.setattr(service, "broker_of", lambda _: broker)
    monkeypatch.setattr(Processes, "start", interrupted)
    status, _, _ = ruvllm("up")
    # then the broker is as it was before
    assert status != 0
    assert broker.running == running


def test_models_are_listed_with_what_is_here(ruvllm):
    # given an empty models folder; when listed; then every model of the catalogue is there, those of the profile marked
    status, out, _ = ruvllm("--profile", "tiny", "models", "list")
    rows = [line.split() for line in out.splitlines()]
    marked = [row[1] for row in rows if row and row[0] == "*" and row[-1] == "missing"]
    assert status == 0
    assert sorted(marked) == ["minilm-l6-v2-int8", "smollm2-135m-q4_1"]
    assert {"lfm2-350m", "lfm2-700m", "lfm2-1.2b", "lfm2-2.6b"} <= {row[0] for row in rows if row}


def test_doctor_says_what_is_missing_and_what_to_do(ruvllm):
    # given a machine without models and broker; when looked over; then both are named with what to do
    status, out, _ = ruvllm("--profile", "tiny", *NOBODY, "doctor")
    assert status == 1
    assert "look model smollm2-135m-q4_1: missing" in out
    assert "`ruvllm models pull smollm2-135m-q4_1`" in out
    assert "look kafka: no Kafka broker answers at 127.0.0.1:1" in out
    assert "ok   python" in out


def test_status_says_that_nothing_runs(ruvllm):
    # given an installation that is down; when asked; then every process is said not to run, and the status is 1
    status, out, _ = ruvllm(*NOBODY, "status")
    assert status == 1
    assert out.count("not running") == 4
