"""The catalogue is checked whole when it is read; what it ships is consistent and complete."""

from __future__ import annotations

import pytest

from ruvllm.errors import InvalidConfiguration, ModelUnavailable
from ruvllm.models.catalogue import Catalogue, load_catalogue
from ruvllm.models.pool.chat_template import TEMPLATES
from ruvllm.streams.model_files import packaged_catalogue

SMALL = """
[models."a-1"]
role = "generate"
name = "A"
architecture = "llama"
parameters = 10
quantisation = "Q8_0"
context_tokens = 64
chat_template = "chatml"
licence = "MIT"
origin = "here"
[[models."a-1".files]]
name = "model.gguf"
bytes = 7
sha256 = "{sha256}"
parts = [
  {{ package = "one", version = "1", path = "one/a.bin", bytes = 3 }},
  {{ package = "two", version = "2", path = "two/b.bin", bytes = 4 }},
]
[profiles.only]
default = true
embedder = "a-1"
default_tier = "s"
tiers = [{{ tier = "s", model = "a-1", cost_per_token = 0.5 }}]
""".format(sha256="0" * 64)


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return packaged_catalogue()


def test_a_catalogue_is_read_into_typed_cards() -> None:
    catalogue = load_catalogue(SMALL)
    card = catalogue.model("a-1")
    assert (card.role, card.bytes, card.pullable) == ("generate", 7, True)
    assert [part.package for part in card.file("model.gguf").parts] == ["one", "two"]
    assert catalogue.profile().tier("s").cost_per_token == 0.5
    assert catalogue.default_profile == "only"


@pytest.mark.parametrize(
    ("broken", "by", "says"),
    [
        ('sha256 = "000', 'sha256 = "zzz', "sha256"),
        ("bytes = 7", "bytes = 8", "its parts have 7 bytes, not 8"),
        ('role = "generate"', 'role = "sing"', "'sing'"),
        ('chat_template = "chatml"', "", "lacks a chat template"),
        ('licence = "MIT"', "", "licence"),
        ('models."a-1"', 'models."../a"', "folder name"),
        ('name = "model.gguf"', 'name = "/etc/passwd"', "plain file name"),
        ('embedder = "a-1"', 'embedder = "b"', "names models that are not there: b"),
        ('default_tier = "s"', 'default_tier = "x"', "'x'"),
        ("default = true", "", "one profile"),
        ('version = "1"', 'version = "1", colour = "red"', "colour"),
        ("[profiles", "[[profiles", "not TOML"),
    ],
)
def test_a_wrong_entry_is_named(broken: str, by: str, says: str) -> None:
    text = SMALL.replace(broken, by)
    assert text != SMALL
    with pytest.raises(InvalidConfiguration, match=says):
        load_catalogue(text)


def test_tiers_stand_from_the_smallest_to_the_largest() -> None:
    two = SMALL.replace("[profiles.only]", SMALL[: SMALL.index("[profiles")].replace("a-1", "b-1") + "[profiles.only]")
    two = two.replace("parameters = 10", "parameters = 20", 1)
    rows = '{ tier = "s", model = "a-1", cost_per_token = 0.5 }, { tier = "t", model = "b-1", cost_per_token = 1.0 }'
    two = two.replace('{ tier = "s", model = "a-1", cost_per_token = 0.5 }', rows)
    with pytest.raises(InvalidConfiguration, match="smallest to the largest"):
        load_catalogue(two)


def test_unknown_names_say_which_there_are(shipped: Catalogue) -> None:
    with pytest.raises(ModelUnavailable, match="smollm2-135m-q4_1"):
        shipped.model("gpt-9")
    with pytest.raises(ModelUnavailable, match="small"):
        shipped.profile("huge")
    with pytest.raises(ModelUnavailable, match="1500m"):
        shipped.profile("small").tier("7b")
    with pytest.raises(ModelUnavailable, match=r"model\.gguf"):
        shipped.model("lfm2-350m").file("weights.bin")


def test_the_shipped_profiles_are_the_promised_ones(shipped: Catalogue) -> None:
    tiers = {name: [tier.tier for tier in profile.tiers] for name, profile in shipped.profiles.items()}
    assert tiers == {
        "tiny": ["135m"],
        "small": ["135m", "500m", "1500m"],
        "lfm2": ["350m", "700m", "1200m", "2600m"],
    }
    assert {name: profile.default_tier for name, profile in shipped.profiles.items()} == {
        "tiny": "135m",
        "small": "1500m",
        "lfm2": "1200m",
    }
    assert shipped.default_profile == "small"


def test_every_shipped_model_can_be_had_and_asked(shipped: Catalogue) -> None:
    for card in shipped.models.values():
        assert card.licence
        assert card.pullable or all(file.hub is not None for file in card.files)
        if card.role == "generate":
            assert card.chat_template in TEMPLATES
    for profile in shipped.profiles.values():
        costs = [tier.cost_per_token for tier in profile.tiers]
        assert costs == sorted(costs)
        assert shipped.model(profile.embedder).role == "embed"
