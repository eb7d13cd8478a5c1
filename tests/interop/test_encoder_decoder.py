"""Encoders and decoders of transformers, built and run: the same numbers, full and cached.

The spec of some is made from their config; that of the others is under families/.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    PretrainedConfig,
    SwitchTransformersConfig,
    T5Config,
    T5GemmaConfig,
    UMT5Config,
)
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

from archc.importer import import_model
from archc.verification.packages import stored_tensors
from tests.interop.parity import (
    EPS,
    EXACT,
    FAMILIES,
    GRADIENTS,
    LOGITS,
    ROUNDED,
    VOCABULARY,
    Pair,
    both,
    fused_by_default,
    sizes,
    spec_of,
)
from tests.support import build, distance

SOURCE, TARGET = 19, 13  # tokens
PIECES = (4, 1, 1, 5, 2)
START = 3


def marian(**changes: Any) -> PretrainedConfig:
    small = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 3, "max_position_embeddings": 64}
    heads = {"encoder_attention_heads": 6, "decoder_attention_heads": 4}
    widths = {"encoder_ffn_dim": 80, "decoder_ffn_dim": 72, "vocab_size": VOCABULARY}
    tokens = {"decoder_start_token_id": START, "pad_token_id": 0, "eos_token_id": None}
    return MarianConfig(
        **{
            **small,
            **heads,
            **widths,
            **tokens,
            "forced_eos_token_id": None,
            "scale_embedding": True,
            **changes,
        }
    )


def stacks(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """What BART's descendants call their sizes."""
    small = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": VOCABULARY}
    widths = {"encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "scale_embedding": True}
    tokens = {"decoder_start_token_id": START, "pad_token_id": 0, "eos_token_id": None}
    return config(**{**small, **heads, **widths, **tokens, "forced_eos_token_id": None, **changes})


def t5(**changes: Any) -> PretrainedConfig:
    small = {"d_model": 48, "d_kv": 10, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2, "d_ff": 80}
    distances = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11}
    tokens = {"vocab_size": VOCABULARY, "decoder_start_token_id": START, "eos_token_id": None}
    return T5Config(**{**small, **distances, **tokens, "layer_norm_epsilon": 0.02, **changes})


def switch(**changes: Any) -> PretrainedConfig:
    """Experts that cannot take all: some tokens pass them by."""
    small = {"d_model": 48, "d_kv": 10, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 3, "d_ff": 80}
    routing = {"num_experts": 5, "expert_capacity": 2, "num_sparse_encoder_layers": 2}
    factors = {"router_aux_loss_coef": 0.3, "router_z_loss_coef": 0.2, "router_jitter_noise": 0.1}
    distances = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11}
    tokens = {"vocab_size": VOCABULARY, "decoder_start_token_id": START, "eos_token_id": None}
    sizes = {**small, **routing, **factors, **distances, **tokens, "layer_norm_epsilon": 0.02}
    return SwitchTransformersConfig(**{**sizes, "num_sparse_decoder_layers": 1, **changes})


def m2m_100() -> PretrainedConfig:
    return stacks(M2M100Config, activation_function="relu", pad_token_id=1)


def umt5() -> PretrainedConfig:
    small = {"d_model": 48, "d_kv": 10, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2, "d_ff": 80}
    distances = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11}
    tokens = {"vocab_size": VOCABULARY, "decoder_start_token_id": START, "eos_token_id": None}
    return UMT5Config(**small, **distances, **tokens, layer_norm_epsilon=0.02, tie_word_embeddings=False)


def t5gemma() -> PretrainedConfig:
    small = sizes(head_dim=12, rms_norm_eps=EPS, sliding_window=3, query_pre_attn_scalar=16)
    stack = {**small, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0, "pad_token_id": 0}
    decoder = {**stack, "num_hidden_layers": 2}
    tokens = {"decoder_start_token_id": START, "pad_token_id": 0, "bos_token_id": START, "eos_token_id": None}
    return T5GemmaConfig(encoder=stack, decoder=decoder, vocab_size=VOCABULARY, **tokens)


CASES: dict[str, tuple[Callable[[], PretrainedConfig], float]] = {
    "marian": (lambda: marian(activation_function="swish"), ROUNDED),
    "marian_unscaled": (lambda: marian(activation_function="relu", scale_embedding=False), ROUNDED),
    "t5": (t5, EXACT),
    "t5_v1_1": (lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False), EXACT),
    # Scores that nothing scales magnify what the class rounds to float32 in its norms.
    "switch": (switch, 10 * ROUNDED),
    "switch_biased": (
        lambda: switch(router_bias=True, expert_capacity=64, num_sparse_encoder_layers=0),
        10 * ROUNDED,
    ),
    "bart": (lambda: stacks(BartConfig, decoder_layers=3, scale_embedding=False), EXACT),
    "mbart": (lambda: stacks(MBartConfig), EXACT),
    "m2m_100": (m2m_100, ROUNDED),
    "t5gemma": (t5gemma, ROUNDED),
    "umt5": (umt5, EXACT),
}


def save_random(config: PretrainedConfig, folder: Path) -> Any:
    """A model of transformers with random weights and buffers that show mistakes, saved in a folder."""
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    if not getattr(
        config, "scale_decoder_outputs", True
    ):  # v1.1, whose head the class ties but when it loads
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        saved = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
        for name, tensor in (*model.named_parameters(), *saved.items()):
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.requires_grad or "embed_positions" not in name:
                tensor.copy_(0.25 * noise if tensor.dim() > 1 else tensor + 0.3 * noise)
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    model.save_pretrained(folder)
    return model


SPECS = {"bart", "m2m_100", "mbart", "t5gemma", "umt5"}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    config, float64 = CASES[request.param]
    theirs = save_random(config(), folder / "tiny")
    if request.param not in SPECS:
        package = build(import_model(folder / "tiny").text, "tiny", folder)
    else:
        package = build(spec_of(request.param), request.param, folder)
    return Pair(theirs, folder / "tiny", package, float64)


@torch.no_grad()
@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_a_head_that_no_checkpoint_has_is_tied(shard: str, tmp_path: Path) -> None:
    """T5 v1.1 saved as the class ties it, whose config does not say so."""
    config = t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    torch.manual_seed(0)
    theirs = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    for parameter in theirs.parameters():
        parameter.copy_(0.25 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "tiny", max_shard_size=shard)
    assert "tied = false" in import_model(copied_config(tmp_path)).text
    text = import_model(tmp_path / "tiny").text
    assert "tied = false" not in text
    ours = build(text, "tiny", tmp_path).Model.from_pretrained(tmp_path / "tiny")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tiny", attn_implementation="eager").eval()
    tokens, target = random_tokens(SOURCE), random_tokens(TARGET)
    assert distance(ours(tokens, target), loaded(input_ids=tokens, decoder_input_ids=target).logits) < LOGITS


def copied_config(folder: Path) -> Path:
    """The config alone, without a checkpoint."""
    (folder / "alone").mkdir()
    shutil.copy(folder / "tiny" / "config.json", folder / "alone")
    return folder / "alone"


def random_tokens(length: int) -> Tensor:
    return torch.randint(4, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(length))


def theirs_of(pair: Pair, padding: Tensor | None = None) -> Tensor:
    mask = None if padding is None else padding.long()
    tokens, target = random_tokens(SOURCE), random_tokens(TARGET)
    logits: Tensor = pair.theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=target).logits
    return logits


def through_cache(model: nn.Module, padding: Tensor | None = None) -> Tensor:
    """Logits of decoder tokens that come in pieces; the encoder's are given with the first."""
    cache, source, parts = model.new_cache(2, TARGET), random_tokens(SOURCE), []
    for piece in random_tokens(TARGET).split(PIECES, 1):
        parts.append(model(source, piece, padding=padding, cache=cache))
        source = padding = None
    return torch.cat(parts, 1)


@both
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_logits(pair: Pair, kind: str, padded: bool) -> None:
    padding = torch.ones(2, SOURCE, dtype=torch.bool)
    padding[1, -6:] = False
    given = padding if padded else None
    model, truth = pair.ours(kind), theirs_of(pair, given)
    assert distance(model(random_tokens(SOURCE), random_tokens(TARGET), padding=given), truth) < LOGITS
    assert distance(through_cache(model, given), truth) < LOGITS


def _norm(self: Any, x: Tensor) -> Tensor:
    """T5LayerNorm.forward, but for a mean that is taken in float32 whatever the dtype.

    Nothing else of T5 is rounded in float64; scores that nothing scales make some 1e-5 of it.
    """
    weight: Tensor = self.weight
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


@both
@torch.no_grad()
def test_logits_in_float64(pair: Pair, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for norm in (T5LayerNorm, UMT5LayerNorm):
        monkeypatch.setattr(norm, "forward", _norm)
    pair.theirs.double()
    truth = theirs_of(pair)
    pair.theirs.float()
    found = pair.ours(kind, torch.float64)(random_tokens(SOURCE), random_tokens(TARGET))
    assert distance(found, truth) < pair.float64


@fused_by_default
def test_greedy_tokens(pair: Pair, kind: str) -> None:
    """Without a cache of theirs, with which experts' capacities are counted anew at each step."""
    tokens = random_tokens(SOURCE)
    told = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1, "use_cache": False}
    theirs = pair.theirs.generate(tokens, **told)
    assert torch.equal(pair.ours(kind).generate(tokens, max_new_tokens=6), theirs)


@both
def test_loss_and_gradients(pair: Pair, kind: str) -> None:
    """transformers takes labels that are one token ahead of what its decoder reads."""
    tokens, target, model = random_tokens(SOURCE), random_tokens(TARGET), pair.ours(kind).eval()
    labels = target.clone()
    labels[0, :4] = -100
    pair.theirs.zero_grad()
    theirs = pair.theirs(
        input_ids=tokens, decoder_input_ids=target[:, :-1], labels=labels[:, 1:].contiguous()
    ).loss
    theirs.backward()
    loss = model.loss(tokens, target, labels, apart=True)["cross_entropy"]
    loss.backward()
    assert distance(loss, theirs) < LOGITS
    found = dict(stored_tensors(model, gradients=True))
    largest = max(float(p.grad.norm()) for p in pair.theirs.parameters() if p.grad is not None)
    for name, parameter in pair.theirs.named_parameters():
        if parameter.grad is not None:
            apart = float((found[name] - parameter.grad).norm())
            assert apart < GRADIENTS * max(float(parameter.grad.norm()), 1e-3 * largest), name


@both
@pytest.mark.parametrize("pair", ["switch"], indirect=True)
def test_terms_of_routers(pair: Pair, kind: str) -> None:
    tokens, target, model = random_tokens(SOURCE), random_tokens(TARGET), pair.ours(kind).eval()
    told = {"input_ids": tokens, "decoder_input_ids": target, "labels": target, "output_router_logits": True}
    pair.theirs.zero_grad()
    theirs = pair.theirs(**told)
    terms = model.loss(tokens, target, target, apart=True)
    del terms["cross_entropy"]
    assert terms.keys() == {"encoder_balance", "decoder_balance", "encoder_z", "decoder_z"}
    for stack in ("encoder", "decoder"):
        assert distance(terms[f"{stack}_balance"], 0.3 * theirs[f"{stack}_aux_loss"]) < LOGITS
        assert distance(terms[f"{stack}_z"], 0.2 * theirs[f"{stack}_z_loss"]) < LOGITS
    sum(terms.values()).backward()
    own = [0.3 * theirs[f"{s}_aux_loss"] + 0.2 * theirs[f"{s}_z_loss"] for s in ("encoder", "decoder")]
    sum(own).backward()
    found = dict(stored_tensors(model, gradients=True))
    for name, parameter in pair.theirs.named_parameters():
        if "router" in name:
            assert distance(found[name], parameter.grad) < GRADIENTS, name


@both
def test_saves_what_it_loads(pair: Pair, kind: str, tmp_path: Path) -> None:
    pair.ours(kind).save_pretrained(tmp_path)
    written, original = load_file(tmp_path / "model.safetensors"), load_file(
        pair.folder / "model.safetensors"
    )
    assert set(written) == set(original)
    assert all(torch.equal(written[name], tensor) for name, tensor in original.items())


def test_every_spec_is_tested() -> None:
    assert {spec_of(name) for name in SPECS} == set((FAMILIES / "encoder_decoder").glob("*.arch"))
