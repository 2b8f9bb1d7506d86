"""Reports say what was run on what, what was found and what was not done; a bench leaves nothing behind."""

import asyncio
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import RuvllmError
from ruvllm.streams.proof.aftermath import COUNTS, amiss
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.report import machine, quantiles_ms, report, write_report


def test_a_report_names_command_machine_sizes_and_seed():
    # given a run; when reported; then whoever reads it can run it again
    made = report("ruvllm bench pipeline", seed=7, sizes={"requests": 3}, results={"ratio": 1.5})
    assert (made["command"], made["seed"], made["sizes"], made["ratio"]) == (
        "ruvllm bench pipeline",
        7,
        {"requests": 3},
        1.5,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["at"])
    assert set(made["machine"]) == set(machine()) == {"cpu", "cores", "memory_gib", "system", "python"}
    assert made["machine"]["cores"] > 0 and made["machine"]["memory_gib"] > 0


def test_a_report_is_written_as_json_where_a_file_is_named(tmp_path):
    # given a report and a file in a folder that is not there yet; when written; then it can be read
    write_report(tmp_path / "new" / "r.json", {"a": [1, 2.5]})
    assert json.loads((tmp_path / "new" / "r.json").read_text()) == {"a": [1, 2.5]}
    write_report(None, {"a": 1})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"p50": 1, "p95": 1, "p99": 1}),
        (2, {"p50": 1.5, "p95": 2, "p99": 2}),
        (20, {"p50": 10.5, "p95": 19, "p99": 20}),
        (100, {"p50": 50.5, "p95": 95, "p99": 99}),
        (300, {"p50": 150.5, "p95": 285, "p99": 297}),
    ],
)
def test_quantiles_are_the_median_and_nearest_ranks(count, expected):
    # given 1, 2, ... milliseconds in any order; when their quantiles are taken; then they are the ones by definition
    assert quantiles_ms([n / 1000 for n in range(count, 0, -1)]) == expected


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_quantiles_are_in_order_and_within_what_was_measured(seconds):
    # given any times; when their quantiles are taken; then they ascend and stay within
    found = quantiles_ms(seconds)
    assert min(seconds) * 1000 - 0.01 <= found["p50"] <= found["p95"] + 0.01 <= found["p99"] + 0.02
    assert found["p99"] <= max(seconds) * 1000 + 0.01


# --- what a run of faults says of itself ----------------------------------------------------------------

PLANNED = {"kills": 12, "aimed": 8, "zombies": 3}
SOUND = {"planned": PLANNED, "done": PLANNED, **dict.fromkeys(COUNTS, 0), "fold_equal": True}


def test_a_run_that_did_what_was_planned_and_lost_nothing_is_sound():
    # given a run without findings; when looked over; then nothing is amiss, though it did more than was planned
    assert amiss(SOUND) == []
    assert amiss({**SOUND, "done": {**PLANNED, "kills": 13}}) == []


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_that_was_not_carried_out_proves_nothing(name):
    # given a run in which one planned fault did not happen; when looked over; then it is said
    short = {**PLANNED, name: PLANNED[name] - 1}
    assert amiss({**SOUND, "done": short}) == [f"{PLANNED[name] - 1} of {PLANNED[name]} planned {name} happened"]


@pytest.mark.parametrize("name", COUNTS)
def test_whatever_was_lost_or_doubled_is_amiss(name):
    # given one count that is not 0; when looked over; then it is named; and so is a memory that differs
    assert amiss({**SOUND, name: 2}) == [f"{name}: 2"]
    assert amiss({**SOUND, "fold_equal": False}) == ["memory differs from the serial fold"]


# --- what a bench leaves ---------------------------------------------------------------------------------

NOBODY = "127.0.0.1:1"


def test_a_cluster_that_is_done_removes_its_folder():
    # given a cluster; when done, whether or not there is an event loop; then its folder is gone
    async def use():
        with Cluster(NOBODY, {}) as cluster:
            assert cluster.folder.is_dir()
        return cluster.folder

    with Cluster(NOBODY, {}) as cluster:
        (cluster.folder / "worker.log").write_text("all is well")
    assert not cluster.folder.exists()
    assert not asyncio.run(use()).exists()


def test_a_cluster_in_which_something_failed_keeps_its_folder_and_says_where():
    # given a cluster; when something fails in it; then its folder is kept, and the error says where
    with pytest.raises(RuvllmError) as caught, Cluster(NOBODY, {}) as cluster:
        raise RuvllmError("worker pool did not become ready")
    assert cluster.folder.is_dir()
    assert str(cluster.folder) in caught.value.__notes__[0]
    assert cluster.prefix in caught.value.__notes__[0]
    # and when it is interrupted, nothing has failed
    cluster.folder.rmdir()
    with pytest.raises(KeyboardInterrupt), Cluster(NOBODY, {}) as cluster:
        raise KeyboardInterrupt
    assert not cluster.folder.exists()
