"""Ministral 3: Llama's block, whose queries grow past the context that frequencies were trained for."""

from typing import Any

from archc.interop.config import Config
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
    wide_head_dim,
)
from archc.interop.rope import rope_section, rotary, scaled, tells_rope
from archc.interop.windows import window
from archc.ir.attributes import Width
from archc.ir.ops.scaling import Yarn

_BETA, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"
_YARN = Yarn(factor=16.0, original=Width(16384), fast=32.0, slow=1.0, mscale=1.0, mscale_all_dim=1.0)
_ROTARY = scaled(rotary(theta=1000000.0, context=262144), _YARN)


def _rope(config: Config, known: Known) -> Any:
    rope_section(config).get("max_position_embeddings")  # which the config says, too
    return _ROTARY.read(config, known)


def _tuning(config: Config, _known: Known) -> float | None:
    """How queries grow, None where the key holds 0; the class has a default for its own scaling alone."""
    given = rope_section(config)
    return None if given.get(_BETA) == 0 else given.number(_BETA, None if tells_rope(config) else 0.1)


def _tuning_floor(config: Config, known: Known) -> int:
    """After how many tokens queries grow, if they do."""
    scaling = known["rope"].scaling
    usual = getattr(scaling, "original", 16384)
    return rope_section(config).whole(_ORIGINAL, int(usual), null=int(usual))


def _write(value: float | None, known: Known) -> dict[str, Any]:
    written = _ROTARY.write(known["rope"], known)
    told = {_BETA: 0.0 if value is None else float(value), _ORIGINAL: int(known["tuning_floor"])}
    return {**written, "rope_parameters": {**told, **written["rope_parameters"]}}


MINISTRAL3 = Family(
    model_type="ministral3",
    spec="ministral3",
    arch="Ministral3",
    architectures=("Ministral3ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 34),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(8),
        "head_dim": wide_head_dim(128),
        "d_ff": whole("intermediate_size", 14336),
        "vocab": whole("vocab_size", 131072),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": Setting(_rope, _ROTARY.write),
        "tuning": Setting(_tuning, _write),
        "tuning_floor": _tuning_floor,
        "window": window(None),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
)
