"""Qwen1.5-MoE and Qwen 2 with experts: one more MLP for all tokens, behind a gate."""

from archc.interop.config import Config
from archc.interop.families.qwen3_moe import SPARSE
from archc.interop.family import (
    Family,
    Known,
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
from archc.interop.windows import used_windows


def _usual(config: Config, known: Known) -> list[bool]:
    """Windows on every other of the first layers, where they are in use."""
    first = config.whole("max_window_layers", 28, least=0)
    return [layer % 2 == 0 and layer < first for layer in range(known["layers"])]


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    spec="qwen2_moe",
    arch="Qwen2Moe",
    architectures=("Qwen2MoeForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 24),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(16),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 5632),
        "experts": experts("num_experts", 60),
        "choices": choices("num_experts_per_tok", 4),
        "expert_d_ff": whole("moe_intermediate_size", 1408),
        "shared_d_ff": whole("shared_expert_intermediate_size", 5632),
        "normed": flag("norm_topk_prob", False),
        "vocab": whole("vocab_size", 151936),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=32768),
        **used_windows(4096, _usual),
        "act": activation("hidden_act", "silu"),
        "qkv_bias": flag("qkv_bias", True),
        "sparse": SPARSE,
        "balance": balance(0.001),
        "tied": flag("tie_word_embeddings", False),
    },
)
