"""Llama 4, its text model: chunks of the context, layers without positions, one expert of many."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    activation,
    flag,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.routing import ROUTER_TRAINING, choices, experts
from archc.interop.windows import write_rotated

_FULL, _CHUNKED = "full_attention", "chunked_attention"
_TUNING = "attn_temperature_tuning"


def _chunk(config: Config, _known: Known) -> int | None:
    if config.get("attention_chunk_size", 8192) is None:
        return None
    return config.whole("attention_chunk_size", 8192)


def _write_chunk(value: int | None, _known: Known) -> dict[str, Any]:
    return {"attention_chunk_size": None if value is None else int(value)}


def _tuned(config: Config, _known: Known) -> bool:
    """Whether queries grow with their position; the class's first version wrote 4 for true."""
    return config.get(_TUNING) == 4 or config.flag(_TUNING, True)


def _rotated(config: Config, known: Known) -> tuple[bool, ...] | None:
    """The layers that rotate, None where they follow the period; `layer_types` must say so of chunks."""
    count, every = known["layers"], known["nope_every"]
    usual = tuple((layer + 1) % every != 0 for layer in range(count))
    listed = None
    if config.get("no_rope_layers"):
        listed = config.items(
            "no_rope_layers", count, (0, 1).__contains__, "1 (rotary positions) or 0 (none)"
        )
    rotates = usual if listed is None else tuple(each == 1 for each in listed)
    kinds = f'"{_FULL}" or "{_CHUNKED}"'
    types = config.items("layer_types", count, (_FULL, _CHUNKED).__contains__, kinds)
    chunked = tuple(each and known["chunk"] is not None for each in rotates)
    if types is not None and tuple(each == _CHUNKED for each in types) != chunked:
        config.complain(
            "layer_types", "supported is chunked attention where, and only where, a layer rotates"
        )
    return None if rotates == usual else rotates


def _sparse(config: Config, known: Known) -> tuple[bool, ...] | None:
    """For each layer whether it has experts, None where it follows the period."""
    listed = config.get("moe_layers")
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(type(layer) is int for layer in listed):
        config.complain("moe_layers", "must be a list of layers' numbers")
        return None
    sparse = tuple(layer in listed for layer in range(known["layers"]))
    every = known["sparse_every"]
    return None if sparse == tuple((i + 1) % every == 0 for i in range(len(sparse))) else sparse


def _write_sparse(value: tuple[bool, ...] | None, _known: Known) -> dict[str, Any]:
    return {} if value is None else {"moe_layers": [layer for layer, each in enumerate(value) if each]}


LLAMA4 = Family(
    model_type="llama4_text",
    spec="llama4",
    arch="Llama4",
    architectures=("Llama4ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 5120),
        "layers": layers("num_hidden_layers", 48),
        "heads": whole("num_attention_heads", 40),
        "kv_heads": key_value_heads(8),
        "head_dim": whole("head_dim", 128),
        "d_ff": whole("intermediate_size_mlp", 16384),
        "experts": experts("num_local_experts", 16),
        "choices": choices("num_experts_per_tok", 1),
        "expert_d_ff": whole("intermediate_size", 8192),
        "sparse_every": whole("interleave_moe_layer_step", 1),
        "sparse": Setting(_sparse, _write_sparse),
        "vocab": whole("vocab_size", 202048),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=500000.0, context=131072, pairing="interleaved"),
        "chunk": Setting(_chunk, _write_chunk),
        "nope_every": whole("no_rope_layer_interval", 4),
        "rotated": Setting(_rotated, write_rotated),
        "qk_norm": flag("use_qk_norm", True),
        "tuned": Setting(_tuned, lambda value, _known: {_TUNING: value}),
        "tuning": number("attn_scale", 0.1),
        "tuning_floor": whole("floor_scale", 8192),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", False),
    },
    inert=(*ROUTER_TRAINING, "for_llm_compressor"),  # a mark of the tool that quantised it
)
