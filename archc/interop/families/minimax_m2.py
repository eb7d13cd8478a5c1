"""MiniMax-M2: a part of each head is rotated, experts are scored by sigmoids, biased for the choice."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    MAX_LAYERS,
    Family,
    Known,
    Setting,
    activation,
    flag,
    key_value_heads,
    number,
    whole,
)
from archc.interop.rope import partly_rotary
from archc.interop.routing import ROUTER_TRAINING, choices, experts


def _layers(config: Config, _known: Known) -> int:
    """How many layers there are; a list may say that all are attention."""
    count = config.whole(_LAYERS, 62, most=MAX_LAYERS)
    config.items("attn_type_list", count, _ATTENTION.__eq__, f"{_ATTENTION}, attention,")
    return count


_LAYERS = "num_hidden_layers"
_ATTENTION = 1  # 0 are layers that keep a state, as older models have

# Keys that the code of its own reads, and the class does not: supported is what the class does.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "scoring_func": (("sigmoid",), "as in the class"),
    "use_routing_bias": ((True,), "as in the class"),
    "use_qk_norm": ((True,), "as in the class"),
    "qk_norm_type": (("per_layer",), "since all of a token's queries are normed together"),
    "shared_intermediate_size": ((0,), "since the arch has no expert for all tokens"),
    "layernorm_full_attention_beta": ((1,), "since the arch's sums have no factors"),
    "layernorm_mlp_beta": ((1,), "since the arch's sums have no factors"),
}
_INERT = (
    *ROUTER_TRAINING,
    "layernorm_linear_attention_beta",  # of layers that keep a state
    "mlp_intermediate_size",  # of layers without experts
    "shared_moe_mode",
    "use_mtp",  # layers for training that checkpoints hold after the last
    "num_mtp_modules",
    "mtp_transformer_layers",
    "auto_map",
)

MINIMAX_M2 = Family(
    model_type="minimax_m2",
    spec="minimax_m2",
    arch="MiniMaxM2",
    architectures=("MiniMaxM2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 3072),
        "layers": Setting(_layers, lambda value, _known: {_LAYERS: int(value)}),
        "heads": whole("num_attention_heads", 48),
        "kv_heads": key_value_heads(8),
        "head_dim": whole("head_dim", 128),
        "d_ff": whole("intermediate_size", 1536),
        "experts": experts("num_local_experts", 256, "num_experts"),
        "choices": choices("num_experts_per_tok", 8),
        "vocab": whole("vocab_size", 200064),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": partly_rotary(theta=5000000.0, context=196608, share=1.0, width="rotary_dim"),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed=_FIXED,
    inert=_INERT,
    quantised="fp8",
)
