"""Qwen3-Next: the gated delta rule, attention in every n-th layer or where a list says, experts."""

from typing import Any

from archc.interop.config import Config
from archc.interop.families.qwen3_moe import SPARSE
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
from archc.interop.rope import partly_rotary
from archc.interop.routing import balance, choices, experts
from archc.interop.windows import FULL

LINEAR = "linear_attention"
_PERIOD = 4


def _listed(config: Config, known: Known) -> tuple[bool, ...] | None:
    """For each layer whether it is attention, None where no list says so."""
    types = config.items(
        "layer_types", known["layers"], (LINEAR, FULL).__contains__, f'"{LINEAR}" or "{FULL}"'
    )
    return None if types is None else tuple(each == FULL for each in types)


def _full(config: Config, known: Known) -> tuple[bool, ...] | None:
    """The list, None where it follows the period."""
    full, every = _listed(config, known), known["full_every"]
    follows = full == tuple((layer + 1) % every == 0 for layer in range(known["layers"]))
    return None if follows else full


def _write_full(value: tuple[bool, ...] | None, known: Known) -> dict[str, Any]:
    every = known["full_every"]
    full = value or [(layer + 1) % every == 0 for layer in range(known["layers"])]
    return {"layer_types": [FULL if each else LINEAR for each in full]}


QWEN3_NEXT = Family(
    model_type="qwen3_next",
    spec="qwen3_next",
    arch="Qwen3Next",
    architectures=("Qwen3NextForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 48),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(2),
        "head_dim": whole("head_dim", 256),
        "key_heads": whole("linear_num_key_heads", 16),
        "value_heads": whole("linear_num_value_heads", 32),
        "key_dim": whole("linear_key_head_dim", 128),
        "value_dim": whole("linear_value_head_dim", 128),
        "taps": whole("linear_conv_kernel_dim", 4),
        "d_ff": whole("intermediate_size", 5632),
        "experts": experts("num_experts", 512),
        "choices": choices("num_experts_per_tok", 10),
        "expert_d_ff": whole("moe_intermediate_size", 512),
        "shared_d_ff": whole("shared_expert_intermediate_size", 512),
        "normed": flag("norm_topk_prob", True),
        "vocab": whole("vocab_size", 151936),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": partly_rotary(theta=10000.0, context=32768, share=0.25),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "full_every": whole("full_attention_interval", _PERIOD),
        "full": Setting(_full, _write_full),
        "sparse": SPARSE,
        "balance": balance(0.001),
        "tied": flag("tie_word_embeddings", False),
    },
    inert=("router_jitter_noise", "use_sliding_window", "max_window_layers", "num_nextn_predict_layers"),
    quantised="fp8",
)
