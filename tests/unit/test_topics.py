"""Topics: what is there already is compared with what the topology wants, setting by setting."""

from types import SimpleNamespace

import pytest

from ruvllm.streams.topics import Difference, TopicState, differences
from ruvllm.streams.topology import Keeping

ASKED = {"cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes"}
DEFAULTS = {
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "max.message.bytes": "1048588",
}


class Admin:
    """A broker's word on the settings of its topics, as aiokafka's admin client hands it on."""

    def __init__(self, settings, error=0):
        self._settings, self._error = settings, error

    async def describe_configs(self, resources):
        for resource in resources:
            assert set(resource.configs) == ASKED
        rows = [
            (self._error, "", 2, r.name, [(k, v, False, 5, False, []) for k, v in self._settings.items()])
            for r in resources
        ]
        return [SimpleNamespace(resources=rows)]


async def found(keeping, error=0, present=4, **settings):
    state = TopicState("t", keeping, 4, present)
    given = {**DEFAULTS, "max.message.bytes": "10485760", **{k.replace("_", "."): v for k, v in settings.items()}}
    return {(d.setting, d.found) for d in await differences(Admin(given, error), [state])}


@pytest.mark.parametrize(
    ("keeping", "settings", "different"),
    [
        (Keeping.LOG, {"retention_ms": "-1"}, set()),
        (Keeping.LOG, {}, {("retention.ms", "604800000")}),
        (Keeping.LOG, {"retention_ms": "-1", "retention_bytes": "1000"}, {("retention.bytes", "1000")}),
        (Keeping.LOG, {"retention_ms": "-1", "cleanup_policy": "compact"}, {("cleanup.policy", "compact")}),
        (Keeping.PASSING, {}, set()),
        (Keeping.PASSING, {"retention_ms": "-1"}, set()),
        (Keeping.PASSING, {"retention_ms": "604800001"}, set()),
        (Keeping.PASSING, {"retention_ms": "1000"}, {("retention.ms", "1000")}),
        (Keeping.PASSING, {"max_message_bytes": "1048588"}, {("max.message.bytes", "1048588")}),
        (Keeping.STATE, {"cleanup_policy": "compact"}, set()),
        (Keeping.STATE, {"cleanup_policy": "compact,delete"}, {("cleanup.policy", "compact,delete")}),
        (Keeping.STATE, {}, {("cleanup.policy", "delete")}),
    ],
)
async def test_what_keeps_other_things_or_less_is_found(keeping, settings, different):
    # given a topic with these settings; when compared; then what would lose records is found, and nothing else
    assert await found(keeping, **settings) == different


async def test_what_is_not_there_or_may_not_be_seen_is_not_compared():
    # given a topic that is missing, and one whose settings are closed to us; when compared; then nothing is said
    assert await found(Keeping.STATE, present=0) == set()
    assert await found(Keeping.STATE, error=29) == set()


def test_a_difference_says_what_to_do():
    # given a difference; when it is told; then topic, setting, both values and the command are in it
    difference = Difference("t", "cleanup.policy", "delete", "compact")
    assert str(difference) == "topic t has cleanup.policy = delete, the topology wants compact"
    assert "--entity-name t --add-config cleanup.policy=compact" in difference.remedy
