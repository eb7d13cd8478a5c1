"""Qwen2-VL and Qwen2.5-VL, their text model: Qwen 2, of text alone."""

from dataclasses import replace

from archc.interop.families.qwen2 import QWEN2
from archc.interop.family import key_value_heads, layers, number, whole
from archc.interop.rope import along_axes, rotary
from archc.interop.windows import qwen_windows

QWEN2_VL = replace(
    QWEN2,
    model_type="qwen2_vl_text",
    architectures=("Qwen2VLTextModel", "Qwen2VLForConditionalGeneration"),
    parameters={
        **QWEN2.parameters,
        "d": whole("hidden_size", 8192),
        "layers": layers("num_hidden_layers", 80),
        "heads": whole("num_attention_heads", 64),
        "kv_heads": key_value_heads(8),
        "d_ff": whole("intermediate_size", 29568),
        "vocab": whole("vocab_size", 152064),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": along_axes(rotary(theta=1000000.0, context=32768)),
        **qwen_windows(first=80),
    },
    fixed={},
    # Tokens that stand for what is seen.
    inert=(
        "image_token_id",
        "video_token_id",
        "vision_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ),
)
QWEN2_5_VL = replace(
    QWEN2_VL,
    model_type="qwen2_5_vl_text",
    architectures=("Qwen2_5_VLTextModel", "Qwen2_5_VLForConditionalGeneration"),
)
