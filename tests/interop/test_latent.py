"""Latent attention against transformers' class of DeepSeek-V2 with dense MLPs in all layers."""

from __future__ import annotations

import pytest
from transformers import DeepseekV2Config

from tests.interop.parity import (
    EPS,
    ROUNDED,
    VOCABULARY,
    CloserTests,
    Pair,
    ParityTests,
    both,
    save_random,
    sizes,
)
from tests.support import SPECS, build


@pytest.fixture(scope="module", params=[None, 24], ids=["queries", "latent queries"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = DeepseekV2Config(
        **sizes(rms_norm_eps=EPS, num_key_value_heads=6),
        first_k_dense_replace=3,
        q_lora_rank=request.param,
        kv_lora_rank=20,
        qk_nope_head_dim=10,
        qk_rope_head_dim=4,
        v_head_dim=7,
    )
    folder = tmp_path_factory.mktemp("latent")
    theirs = save_random(config, folder / "tiny")
    rank = str(request.param or "none")
    settings = {"q_rank": rank, "vocab": str(VOCABULARY), "eps": str(EPS)}
    return Pair(
        theirs, folder / "tiny", build(SPECS / "latent.arch", "latent_tiny", folder, settings), ROUNDED
    )


class TestLatent(ParityTests):
    pass


@both
class TestLatentCloser(CloserTests):
    pass
