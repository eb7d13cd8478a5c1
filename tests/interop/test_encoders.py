"""Encoders that the compiler was never told of, against transformers' classes: padding, and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from archc.verification.packages import stored_tensors
from tests.interop.parity import EPS, FAMILIES, GRADIENTS, LOGITS, VOCABULARY, draw_weights, random_tokens
from tests.support import build, distance


def deberta_v2() -> hf.PretrainedConfig:
    return hf.DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=16,
        max_relative_positions=8,
        position_buckets=4,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
        layer_norm_eps=EPS,
    )


@pytest.mark.parametrize("config", [deberta_v2], ids=lambda config: str(config.__name__))
def test_encoders(config: Any, tmp_path: Path) -> None:
    theirs = hf.AutoModel.from_config(config()).eval()
    draw_weights(theirs, torch.Generator().manual_seed(5))
    theirs.save_pretrained(tmp_path / "tiny")
    name = config.__name__
    package = build(FAMILIES / "encoders" / f"{name}.arch", name, tmp_path)
    tokens, real = random_tokens(length=15), torch.ones(2, 15, dtype=torch.bool)
    real[1, 11:] = False
    truth = theirs(tokens, attention_mask=real.long()).last_hidden_state[real]
    (truth**2).sum().backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    least = 1e-3 * max(float(gradient.norm()) for gradient in wanted.values())
    for kind in (package.Model, package.Reference):
        model = kind.from_pretrained(tmp_path / "tiny")
        found = model(tokens, padding=real)[real]
        assert distance(found, truth) < LOGITS
        (found**2).sum().backward()
        for path, gradient in stored_tensors(model, gradients=True):
            error = float((gradient - wanted[path]).norm()) / max(float(wanted[path].norm()), least)
            assert error < GRADIENTS, path
