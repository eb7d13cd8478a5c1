"""Experts that return what they are given; a checkpoint has matrices for them, which nothing reads."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf

from tests.interop.parity import (
    EPS,
    LOGITS,
    Pair,
    both,
    random_tokens,
    save_random,
    sizes,
    spec_of,
    through_cache,
)
from tests.support import build, distance


def longcat_flash() -> hf.LongcatFlashConfig:
    heads = sizes(num_hidden_layers=None, num_attention_heads=4, num_key_value_heads=None)
    return hf.LongcatFlashConfig(
        **{name: value for name, value in heads.items() if name != "intermediate_size"},
        rms_norm_eps=EPS,
        num_layers=2,
        ffn_hidden_size=80,
        q_lora_rank=20,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        head_dim=4,
        v_head_dim=6,
        moe_topk=3,
        n_routed_experts=5,
        zero_expert_num=3,
        expert_ffn_hidden_size=24,
        routed_scaling_factor=1.7,
    )


@both
def test_longcat_flash(kind: str, tmp_path: Path) -> None:
    theirs = save_random(longcat_flash(), tmp_path / "tiny")
    package = build(spec_of("longcat_flash"), "longcat_flash", tmp_path)
    model = Pair(theirs, tmp_path / "tiny", package, 0.0).ours(kind)
    tokens = random_tokens()
    with torch.no_grad():
        truth = theirs(tokens).logits
        assert distance(model(tokens), truth) < LOGITS
        assert distance(through_cache(model, tokens), truth) < LOGITS
