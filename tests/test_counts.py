"""Parameters of the standard models, all and those that one token meets, as they were published."""

from __future__ import annotations

import pytest

from archc.analysis.parameters import count_parameters
from tests.support import SPECS, compile_model

# spec, model -> parameters, active ones, active ones without the table that tokens are looked up in
PUBLISHED = {
    ("llama3", "llama3_8b"): (8_030_261_248, 8_030_261_248, 7_504_924_672),
    ("mixtral", "mixtral_8x7b"): (46_702_792_704, 12_879_925_248, 12_748_853_248),
    ("mixtral", "mixtral_8x22b"): (140_630_071_296, 39_161_468_928, 38_960_142_336),
    ("qwen3_moe", "qwen3_30b_a3b"): (30_532_122_624, 3_353_032_704, 3_041_867_776),
    ("qwen3_moe", "qwen3_235b_a22b"): (235_093_634_560, 22_190_763_520, 21_568_433_664),
}


@pytest.mark.parametrize(("spec", "model"), PUBLISHED)
def test_counts_are_those_published(spec: str, model: str) -> None:
    counts = count_parameters(compile_model(SPECS / f"{spec}.arch", model).reference)
    assert (counts.total, counts.active, counts.active - counts.embedding) == PUBLISHED[spec, model]
