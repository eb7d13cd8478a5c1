"""Qwen3-VL, its text model: Qwen 3, of text alone."""

from dataclasses import replace

from archc.interop.families.qwen3 import QWEN3
from archc.interop.rope import along_axes, rotary
from archc.interop.windows import QWEN_WINDOWS

QWEN3_VL = replace(
    QWEN3,
    model_type="qwen3_vl_text",
    architectures=("Qwen3VLTextModel",),
    parameters={
        **{name: reader for name, reader in QWEN3.parameters.items() if name not in QWEN_WINDOWS},
        "rope": along_axes(rotary(theta=500000.0, context=128000)),
    },
)
