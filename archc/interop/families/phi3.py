"""Phi-3 and Phi-4: one weight for queries, keys and values, another for gate and up."""

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
from archc.interop.rope import partly_rotary
from archc.interop.windows import window
from archc.ir.ops.scaling import Longrope

_ROTARY = partly_rotary(theta=10000.0, context=4096, share=1.0)


def _rope(config: Config, known: Known) -> Any:
    """Rotary positions, scaled as the class can."""
    rope: Any = _ROTARY(config, known)
    if rope.scaling is not None and not isinstance(rope.scaling, Longrope):
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        config.complain(key, 'supported are the types "default" and "longrope", as in the class')
    return rope


_PLAIN = ((False,), "since the arch has no biases")

PHI3 = Family(
    model_type="phi3",
    spec="phi3",
    arch="Phi3",
    architectures=("Phi3ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 3072),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 8192),
        "vocab": whole("vocab_size", 32064),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": Setting(_rope, _ROTARY.write),
        "window": window(None),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed={
        **dict.fromkeys(("attention_bias", "lm_head_bias", "mlp_bias"), _PLAIN),
        "full_attn_mod": ((1,), "since layers are all alike"),
        "interpolate_factor": ((1,), "since positions are counted one by one"),
    },
    # Dropout, for training; the code of its own that the class was written after.
    inert=("embd_pdrop", "resid_pdrop", "auto_map"),
)
