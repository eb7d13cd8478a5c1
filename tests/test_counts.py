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
    ("qwen3_next", "qwen3_next_80b_a3b"): (79_674_391_296, 3_874_929_408, 3_563_764_480),
    ("minimax_m2", "minimax_m2"): (228_689_748_992, 11_030_537_216, 10_415_940_608),
    ("glm4_moe", "glm4_5"): (352_797_814_784, 33_632_251_904, 32_856_305_664),
    ("glm4_moe", "glm4_5_air"): (106_852_245_504, 13_424_123_904, 12_803_366_912),
    ("mamba2", "mamba2_2_7b"): (2_702_599_680, 2_702_599_680, 2_573_862_400),
    ("mamba2", "codestral_mamba_7b"): (7_285_403_648, 7_285_403_648, 7_151_185_920),
    ("recurrent_gemma", "recurrent_gemma_2b"): (2_682_862_080, 2_682_862_080, 2_027_502_080),
    ("recurrent_gemma", "recurrent_gemma_9b"): (8_579_977_216, 8_579_977_216, 7_531_401_216),
    ("deepseek_v2", "deepseek_v2"): (235_741_434_880, 21_375_800_320, 20_851_512_320),
    ("deepseek_v2", "deepseek_v2_lite"): (15_706_484_224, 2_661_150_208, 2_451_435_008),
    ("deepseek_v3", "deepseek_v3"): (671_026_404_352, 37_552_282_624, 36_625_603_584),
    ("kimi_k2", "kimi_k2"): (1_026_408_209_408, 32_861_477_888, 31_687_072_768),
    ("gpt_oss", "gpt_oss_20b"): (20_914_757_184, 4_187_440_704, 3_608_307_264),
    ("gpt_oss", "gpt_oss_120b"): (116_829_156_672, 5_711_982_912, 5_132_849_472),
    ("switch", "switch_base_8"): (619_339_008, 222_977_280, 198_302_976),
    # Often told as 1,570,414,243,840, which leaves out attention's 766,771,200 and the routers' 127,795,200.
    ("switch", "switch_c"): (1_571_308_972_448, 1_728_326_048, 1_661_499_808),
    # Often told as 1,161,738,321,920, which leaves out the routers' 16,777,216, norms and distances.
    ("glam", "glam_64b_64e"): (1_161_756_418_048, 96_604_528_640, 94_507_376_640),
    ("llama4", "llama4_scout"): (107_769_861_120, 17_172_894_720, 16_138_408_960),
    ("llama4", "llama4_maverick"): (400_711_848_960, 17_184_691_200, 16_150_205_440),
}


@pytest.mark.parametrize(("spec", "model"), PUBLISHED)
def test_counts_are_those_published(spec: str, model: str) -> None:
    counts = count_parameters(compile_model(SPECS / f"{spec}.arch", model).reference)
    assert (counts.total, counts.active, counts.active - counts.embedding) == PUBLISHED[spec, model]
