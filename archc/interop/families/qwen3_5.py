"""Qwen3.5, its text model: Qwen3-Next with other tensors, dense or with experts in all layers."""

from collections.abc import Mapping

from archc.interop.config import Config
from archc.interop.families.qwen3_next import QWEN3_NEXT
from archc.interop.family import Family, Known, Reader, constant, key_value_heads, layers, whole
from archc.interop.rope import along_axes, partly_rotary
from archc.interop.routing import choices, experts

_FIXED = {
    "attn_output_gate": ((True, None), "since the arch's attention is gated"),
    "mamba_ssm_dtype": (("float32", None), "since states are kept in it"),
}
# Of layers that predict further tokens, whose tensors the arch ignores.
_INERT = ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")


def _as_next(*names: str) -> Mapping[str, Reader]:
    return {name: QWEN3_NEXT.parameters[name] for name in names}


def _stacked(config: Config, _known: Known) -> bool:
    """Whether one tensor holds a matrix of all experts, as published; transformers writes each expert's."""
    return config.has_tensor("experts.gate_up_proj")


_MIXERS = _as_next("head_dim", "key_heads", "value_heads", "key_dim", "value_dim", "taps")
_COMMON: dict[str, Reader] = {
    "vocab": whole("vocab_size", 248320),
    "rope": along_axes(partly_rotary(theta=10000.0, context=32768, share=0.25)),
    **_as_next("eps", "act", "attention_bias", "full_every", "full", "tied"),
    "by_head": constant(False),
}

QWEN3_5 = Family(
    model_type="qwen3_5_text",
    spec="qwen3_next",
    arch="Qwen3Next",
    architectures=("Qwen3_5ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(4),
        **_MIXERS,
        "d_ff": whole("intermediate_size", 12288),
        "experts": constant(None),
        **_COMMON,
    },
    fixed=_FIXED,
    inert=_INERT,
    quantised="fp8",
)

QWEN3_5_MOE = Family(
    model_type="qwen3_5_moe_text",
    spec="qwen3_next",
    arch="Qwen3Next",
    architectures=("Qwen3_5MoeForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 40),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(2),
        **_MIXERS,
        "experts": experts("num_experts", 256),
        "choices": choices("num_experts_per_tok", 8),
        **_as_next("expert_d_ff", "shared_d_ff", "balance"),
        **_COMMON,
        "stacked": _stacked,
    },
    fixed=_FIXED,
    inert=(*_INERT, "mlp_only_layers"),
    quantised="fp8",
)
