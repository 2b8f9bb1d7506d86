"""What memory keeps of many interactions of which half are bad (the junk test of Loop A)."""

import pytest

from ruvllm.models.embedding import HashingEmbedder
from ruvllm.streams.proof.corpus import demo_folder
from ruvllm.streams.proof.junk import bench_junk


@pytest.mark.parametrize("seed", [1, 2])
async def test_with_true_outcomes_less_than_a_hundredth_of_what_is_kept_is_junk(seed):
    # given two thousand interactions about the demo corpus, half of them bad, many repeated, some copied; of a third
    # the first verdict is wrong, and the truth comes later
    found = await bench_junk(HashingEmbedder(), demo_folder() / "corpus", interactions=2_000, judge="truth", seed=seed)
    # when learnt from; then hardly anything that is kept in the end is junk, and recalled text is not written back
    assert 900 <= found["answered_badly"] <= 1_100
    assert found["kept"]["question"] > 100
    assert found["junk_share"] < 0.01
    assert found["recalled_text_written_back"] == 0
