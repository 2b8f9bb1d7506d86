"""Settings: file, then environment, then flags; what does not fit is refused with its name."""

import os
from pathlib import Path

import pytest

from ruvllm.errors import InvalidConfiguration
from ruvllm.streams.settings import Section, Settings, load_settings, resolve, setting_names


def load(file=None, environ=None, flags=None):
    return load_settings(flags, environ=environ or {}, file=file)


def refusal(**sources):
    with pytest.raises(InvalidConfiguration) as caught:
        load(**sources)
    return caught.value.message


@pytest.fixture
def toml(tmp_path):
    def write(text):
        file = tmp_path / "mine.toml"
        file.write_text(text, "utf-8")
        return file

    return write


# --- the later wins -----------------------------------------------------------------------------------


def test_defaults_stand_where_nothing_is_said():
    # given nothing; when loaded; then the defaults stand, the home folder expanded
    settings = load()
    assert (settings.profile, settings.kafka.prefix, settings.kafka.partitions) == ("small", "ruvllm", 16)
    assert settings.home == Path("~/.ruvllm").expanduser()
    assert settings.models_folder == settings.home / "models"


def test_environment_wins_over_the_file_and_flags_over_both(toml):
    # given one setting in three places, one in two and one in one
    file = toml('profile = "lfm2"\n[kafka]\nprefix = "file"\npartitions = 4\nport = 1000\n')
    environ = {"RUVLLM_KAFKA__PREFIX": "env", "RUVLLM_KAFKA__PARTITIONS": "8"}
    # when resolved
    settings, origin = resolve({"kafka.prefix": "flag"}, environ=environ, file=file)
    # then the later wins, value by value, and each says where it came from
    kafka = settings.kafka
    assert (kafka.prefix, kafka.partitions, kafka.port, settings.profile) == ("flag", 8, 1000, "lfm2")
    assert origin == {
        "profile": str(file),
        "kafka.prefix": "flag",
        "kafka.partitions": "environment",
        "kafka.port": str(file),
    }


def test_the_file_may_be_named_by_the_environment_or_lie_here(toml, tmp_path, monkeypatch):
    # given a file that the environment names, and one that lies in the working folder; when loaded; then they count
    named = toml('profile = "tiny"')
    assert load(environ={"RUVLLM_CONFIG": str(named)}).profile == "tiny"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ruvllm.toml").write_text('profile = "lfm2"')
    assert load().profile == "lfm2"
    assert load(environ={"RUVLLM_PROFILE": "small"}).profile == "small"


def test_every_kafka_tools_variable_is_honoured_under_our_own():
    # given the variable that all Kafka tools know, and ours; when loaded; then ours is the closer one
    theirs = {"KAFKA_BOOTSTRAP_SERVERS": "a:1"}
    assert load(environ=theirs).kafka.bootstrap_servers == "a:1"
    assert load(environ={"RUVLLM_KAFKA__BOOTSTRAP_SERVERS": "b:2", **theirs}).kafka.bootstrap_servers == "b:2"


@pytest.mark.parametrize("where", ["environ", "flags", "file"])
def test_an_empty_text_is_a_value(where, toml):
    # given a setting that is set to nothing; when loaded; then it is empty, not an error
    sources = {
        "environ": {"environ": {"RUVLLM_KAFKA__BOOTSTRAP_SERVERS": ""}},
        "flags": {"flags": {"kafka.bootstrap_servers": ""}},
        "file": {"file": toml('[kafka]\nbootstrap_servers = ""')},
    }
    assert load(**sources[where]).kafka.bootstrap_servers == ""


def test_lists_are_json_in_variables_and_flags(toml):
    # given a list in each place; when loaded; then it is one
    environ = {"RUVLLM_LIMITS__TENANTS": '["a", "b"]'}
    assert load(environ=environ).limits.tenants == ("a", "b")
    assert load(flags={"limits.tenants": '["c"]'}).limits.tenants == ("c",)
    assert load(file=toml('[limits]\ntenants = ["d"]')).limits.tenants == ("d",)


def test_folders_are_expanded_and_made_absolute(monkeypatch, tmp_path):
    # given folders written with ~ or without a root; when loaded; then they can be used from anywhere
    monkeypatch.chdir(tmp_path)
    settings = load(environ={"RUVLLM_HOME": "~/r", "RUVLLM_MODELS": "m"})
    assert settings.home == Path("~/r").expanduser()
    assert settings.models_folder == tmp_path / "m"
    assert settings.snapshots_folder("answer") == settings.home / "state" / "ruvllm" / "answer"


def test_variables_that_are_no_settings_are_left_alone():
    # given variables of ours that are no settings, and others' variables; when loaded; then nothing happens
    environ = {"RUVLLM_FAULT": "sent:1:KILL", "RUVLLM_LOG": "DEBUG", "PATH": "/bin", "RUVLLMX": "1"}
    assert load(environ=environ) == load()


def test_the_process_environment_is_read_when_none_is_handed_in(monkeypatch):
    # given a variable of this process; when loaded without an environment; then it counts
    for name in [n for n in os.environ if n.startswith(("RUVLLM_", "KAFKA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUVLLM_KAFKA__PREFIX", "mine")
    assert load_settings().kafka.prefix == "mine"


# --- what does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ({"flags": {"kafka.prefx": "x"}}, ["kafka.prefx", "'x'", "(flag)"]),
        ({"flags": {"kafka.partitions": "0"}}, ["kafka.partitions", "'0'", "(flag)", "greater than or equal to 1"]),
        ({"flags": {"kafka.partitions": "many"}}, ["kafka.partitions", "'many'"]),
        ({"flags": {"kafka.prefix": "no dots."}}, ["kafka.prefix", "'no dots.'"]),
        ({"flags": {"limits.tenants": "a,b"}}, ["limits.tenants", "'a,b'"]),
        ({"flags": {"limits.tenants": '["a"'}}, ["limits.tenants", "looks like JSON"]),
        ({"flags": {"kafka": "5"}}, ["kafka", "'5'"]),
        ({"flags": {"kafka": "5", "kafka.prefix": "x"}}, ["kafka", "'5'", "section"]),
        ({"flags": {"": "x"}}, ["'x'"]),
        ({"environ": {"RUVLLM_PROFILE": "huge"}}, ["profile", "'huge'", "(environment)", "tiny"]),
        ({"environ": {"RUVLLM_KAFKA__PREFX": "x"}}, ["kafka.prefx", "'x'", "(environment)"]),
        ({"environ": {"RUVLLM_CONFIG": "/nowhere/x.toml"}}, ["/nowhere/x.toml"]),
    ],
)
def test_what_does_not_fit_names_itself_and_its_source(sources, names):
    # given an unknown setting, or a value that does not fit; when loaded; then it is named
    message = refusal(**sources)
    assert [n for n in names if n not in message] == []


def test_a_file_that_does_not_fit_is_named(toml, tmp_path):
    # given files with an unknown setting, a bad value, no TOML, no UTF-8, or none; when loaded; then the file is named
    for text, problem in (
        ("[kafka]\nprefx = 1", "kafka.prefx"),
        ("[wrokers]\nretries = 1", "wrokers"),
        ("profile = 3", "profile"),
        ("profile = ", "is not TOML"),
    ):
        assert problem in refusal(file=toml(text))
    assert "mine.toml" in refusal(file=toml("profile = 3"))
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refusal(file=tmp_path / "bad.toml")
    assert "there is no configuration file" in refusal(file=tmp_path / "none.toml")


# --- what there is ------------------------------------------------------------------------------------


def test_every_setting_has_a_name_a_meaning_and_a_default():
    # given all settings; when listed; then each can be set by its name, is explained and need not be given
    names = list(setting_names())
    assert len(names) == len(set(names)) > 40
    sections = [f.annotation for f in Settings.model_fields.values() if f.annotation.__class__ is type(Section)]
    fields = [f for s in (Settings, *sections) for f in s.model_fields.values() if f.annotation not in sections]
    assert len(fields) == len(names)
    assert [f for f in fields if not f.description or f.is_required()] == []


def test_settings_do_not_change():
    # given settings; when somebody would change one; then it is refused
    with pytest.raises(ValueError, match="frozen"):
        load().kafka.prefix = "other"


def test_threads_follow_the_machine_unless_given():
    # given no number, and one; when a model's threads are asked for; then they are bounded, and as given
    assert 1 <= load().model_threads() <= 4
    assert load(flags={"generation.threads": "7"}).model_threads() == 7
