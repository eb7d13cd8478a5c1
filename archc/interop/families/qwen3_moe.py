"""Qwen 3 with experts: in all layers, in every n-th, or in all but some."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    activation,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.routing import balance, choices, experts


def _sparse(config: Config, known: Known) -> tuple[bool, ...] | None:
    """For each layer whether it has experts, None where all have."""
    period = config.whole("decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        config.complain("mlp_only_layers", "must be a list of layers' numbers")
        dense = []
    sparse = tuple((layer + 1) % period == 0 and layer not in dense for layer in range(known["layers"]))
    return None if all(sparse) else sparse


def _window(config: Config, _known: Known) -> int | None:
    """One window for all layers, where one is in use."""
    size = config.whole("sliding_window", 4096, null=4096)
    return size if config.flag("use_sliding_window", False) else None


def _write_sparse(value: tuple[bool, ...] | None, _known: Known) -> dict[str, Any]:
    return {"mlp_only_layers": [layer for layer, sparse in enumerate(value or ()) if not sparse]}


def _write_window(value: int | None, _known: Known) -> dict[str, Any]:
    return {
        "use_sliding_window": value is not None,
        **({} if value is None else {"sliding_window": int(value)}),
    }


SPARSE = Setting(_sparse, _write_sparse)

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    spec="qwen3_moe",
    arch="Qwen3Moe",
    architectures=("Qwen3MoeForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 24),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(4),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 6144),
        "experts": experts("num_experts", 128, "num_local_experts"),
        "choices": choices("num_experts_per_tok", 8),
        "expert_d_ff": whole("moe_intermediate_size", 768),
        "normed": flag("norm_topk_prob", False),
        "vocab": whole("vocab_size", 151936),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=32768),
        "window": Setting(_window, _write_window),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "sparse": SPARSE,
        "balance": balance(0.001),
        "tied": flag("tie_word_embeddings", False),
    },
    inert=("router_jitter_noise", "max_window_layers"),
    quantised="fp8",
)
