"""Losses of routers beside those of transformers, which returns them where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GptOssConfig, MixtralConfig, PretrainedConfig, Qwen2MoeConfig, Qwen3MoeConfig

from archc.importer import import_model
from archc.verification.packages import stored_tensors
from tests.interop.parity import (
    EPS,
    GRADIENTS,
    LOGITS,
    Pair,
    both,
    random_tokens,
    save_random,
    sizes,
    stored_gradients,
)
from tests.support import build, distance

FACTOR = 0.3  # large, so that the term shows in gradients

CASES: dict[str, Callable[..., PretrainedConfig]] = {
    "gpt_oss": lambda **told: GptOssConfig(
        **sizes(num_local_experts=5, num_experts_per_tok=2, rms_norm_eps=EPS), **told
    ),
    "mixtral": lambda **told: MixtralConfig(**sizes(num_local_experts=5, rms_norm_eps=EPS), **told),
    "qwen2_moe": lambda **told: Qwen2MoeConfig(
        **sizes(
            moe_intermediate_size=20,
            shared_expert_intermediate_size=24,
            num_experts=6,
            num_experts_per_tok=3,
            mlp_only_layers=[1],
            rms_norm_eps=EPS,
        ),
        **told,
    ),
    "qwen3_moe": lambda **told: Qwen3MoeConfig(
        **sizes(
            num_hidden_layers=4,
            moe_intermediate_size=20,
            num_experts=6,
            num_experts_per_tok=3,
            decoder_sparse_step=2,
            rms_norm_eps=EPS,
        ),
        **told,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    config = CASES[request.param](output_router_logits=True, router_aux_loss_coef=FACTOR)
    theirs = save_random(config, folder / "tiny")
    return Pair(theirs, folder / "tiny", build(import_model(folder / "tiny").text, "tiny", folder), 0.0)


@both
@pytest.mark.parametrize("padded", [False, True])
def test_terms_and_gradients(pair: Pair, kind: str, padded: bool) -> None:
    tokens, model = random_tokens(), pair.ours(kind)
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[0, -7:] = not padded
    labels = tokens.masked_fill(~real, -100)
    pair.theirs.zero_grad()
    theirs = pair.theirs(tokens, attention_mask=real.long(), labels=labels)
    theirs.loss.backward()
    given = {"padding": real} if padded else {}
    terms = model.loss(tokens, labels, apart=True, **given)
    assert list(terms) == ["cross_entropy", "balance"]
    assert distance(terms["balance"], FACTOR * theirs.aux_loss) < LOGITS
    loss = model.loss(tokens, labels, **given)
    assert distance(loss, theirs.loss) < LOGITS
    loss.backward()
    found = dict(stored_tensors(model, gradients=True))
    for name, gradient in stored_gradients(pair):
        assert distance(found[name], gradient) < GRADIENTS, name


def test_none_where_the_class_computes_none(tmp_path: Path) -> None:
    save_random(CASES["mixtral"](), tmp_path / "tiny")
    package = build(import_model(tmp_path / "tiny").text, "tiny", tmp_path)
    tokens = random_tokens()
    assert list(package.Model(dtype=torch.float32).loss(tokens, tokens, apart=True)) == ["cross_entropy"]
