"""Mamba 2."""

import math
from typing import Any

from archc.interop.config import Config
from archc.interop.family import Family, Known, Setting, activation, flag, layers, number, whole

_LIMIT = "time_step_limit"


def _limits(config: Config) -> tuple[float, float]:
    """The least and the largest step; 0 and infinity are no limits."""
    value = config.get(_LIMIT)
    if value is None:
        return 0.0, math.inf
    numbers = value if isinstance(value, list) else []
    if (
        len(numbers) == 2
        and all(type(each) in (int, float) for each in numbers)
        and 0 <= numbers[0] < numbers[1]
    ):
        return float(numbers[0]), float(numbers[1])
    config.complain(_LIMIT, "must be a list of two numbers from 0, the smaller one first")
    return 0.0, math.inf


def _least(config: Config, _known: Known) -> float | None:
    return _limits(config)[0] or None


def _largest(config: Config, _known: Known) -> float | None:
    largest = _limits(config)[1]
    return None if largest == math.inf else largest


def _write_limits(largest: float | None, known: Known) -> dict[str, Any]:
    return {_LIMIT: [known["least_step"] or 0.0, math.inf if largest is None else largest]}


def _heads(config: Config, known: Known) -> int:
    """The heads, whose widths together are `expand` times the model's."""
    heads, wide = config.whole("num_heads", 128), config.whole("expand", 2) * known["d"]
    if heads * known["head_dim"] != wide:
        config.complain("num_heads", f"must be {wide} / {known['head_dim']}: expand * hidden_size / head_dim")
    return heads


def _write_heads(value: int, known: Known) -> dict[str, Any]:
    return {"num_heads": int(value), "expand": int(value * known["head_dim"]) // int(known["d"])}


MAMBA2 = Family(
    model_type="mamba2",
    spec="mamba2",
    arch="Mamba2",
    architectures=("Mamba2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 64),
        "head_dim": whole("head_dim", 64),
        "heads": Setting(_heads, _write_heads),
        "state": whole("state_size", 128),
        "groups": whole("n_groups", 8),
        "taps": whole("conv_kernel", 4),
        "vocab": whole("vocab_size", 32768),
        "eps": number("layer_norm_epsilon", 1e-5),
        "act": activation("hidden_act", "silu"),
        "bias": flag("use_bias", False),
        "conv_bias": flag("use_conv_bias", True),
        "least_step": _least,
        "largest_step": Setting(_largest, _write_limits),
        "tied": flag("tie_word_embeddings", False),
    },
    # Start values, how a sequence is cut for the class's kernels, keys that it does not read, and the dtype
    # of the residual stream: the model's own here, float32 by default there.
    inert=(
        "chunk_size",
        "intermediate_size",
        "norm_before_gate",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "rms_norm",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        "time_step_scale",
    ),
)
