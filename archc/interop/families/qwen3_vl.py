"""Qwen3-VL, its text model: Qwen 3, of text alone, dense or with experts."""

from dataclasses import replace

from archc.interop.config import Config
from archc.interop.families.qwen3 import QWEN3
from archc.interop.families.qwen3_moe import QWEN3_MOE
from archc.interop.family import Known, constant, flag, head_dim, key_value_heads, whole
from archc.interop.rope import along_axes, rotary
from archc.interop.routing import choices, experts
from archc.interop.windows import qwen_windows
from archc.ir.records import Symbol

_ROPE = {"rope": along_axes(rotary(theta=500000.0, context=128000))}

QWEN3_VL = replace(
    QWEN3,
    model_type="qwen3_vl_text",
    architectures=("Qwen3VLTextModel",),
    parameters={
        **{name: reader for name, reader in QWEN3.parameters.items() if name not in qwen_windows()},
        **_ROPE,
    },
)


def _stacked(config: Config, known: Known) -> Symbol:
    """The layout of tensors that hold a matrix of all experts: as published, or as transformers writes it."""
    written = config.shape_of("experts.down_proj") == (known["experts"], known["d"], known["expert_d_ff"])
    return Symbol("out_in" if written else "in_out")


QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    model_type="qwen3_vl_moe_text",
    architectures=("Qwen3VLMoeTextModel",),
    parameters={
        **QWEN3_MOE.parameters,
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(16),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 5632),
        "experts": experts("num_experts", 60, "num_local_experts"),
        "choices": choices("num_experts_per_tok", 4),
        "expert_d_ff": whole("moe_intermediate_size", 1408),
        "normed": constant(True),
        **_ROPE,
        "window": constant(None),
        "tied": flag("tie_word_embeddings", True),
        "stacked": _stacked,
    },
    fixed={"norm_topk_prob": ((True,), "as in the class")},
    inert=("sliding_window",),  # which the class sets to null
)
