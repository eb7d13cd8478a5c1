"""Granite 3, dense: Llama's block with constant factors."""

from archc.interop.families.llama import LLAMA
from archc.interop.family import Family, number

_PARAMETERS = {
    **LLAMA.parameters,
    "embedding_factor": number("embedding_multiplier", 1.0),
    "attention_factor": number("attention_multiplier", 1.0),
    "residual_factor": number("residual_multiplier", 1.0),
    "logits_divisor": number("logits_scaling", 1.0),
}

GRANITE = Family(
    model_type="granite",
    spec="granite",
    arch="Granite",
    architectures=("GraniteForCausalLM",),
    parameters=_PARAMETERS,
)
