"""Gemma 3, text: windows on all but every n-th layer, whose rotary frequencies are others."""

from archc.interop.families.gemma2 import ENDS, FIXED, INERT, SCALE, SIZES, WINDOW
from archc.interop.family import Family, Known, number, whole
from archc.interop.rope import rotary_by_layers
from archc.interop.windows import windowed

_UNCAPPED = ((None,), "since the arch caps neither scores nor logits")


def _usual(layer: int, known: Known) -> bool:
    return (layer + 1) % int(known["full_every"]) != 0


GEMMA3 = Family(
    model_type="gemma3_text",
    spec="gemma3",
    arch="Gemma3",
    architectures=("Gemma3ForCausalLM",),
    parameters={
        **SIZES,
        "vocab": whole("vocab_size", 262208),
        "eps": number("rms_norm_eps", 1e-6),
        **rotary_by_layers(theta=1000000.0, local_theta=10000.0, context=131072),
        **SCALE,
        **WINDOW,
        "full_every": whole("sliding_window_pattern", 6),
        "windowed": windowed(_usual),
        **ENDS,
    },
    fixed={**FIXED, "attn_logit_softcapping": _UNCAPPED, "final_logit_softcapping": _UNCAPPED},
    inert=(*INERT, "_sliding_window_pattern"),  # what transformers notes of the period it has read
)
