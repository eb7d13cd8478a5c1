"""Kernels that need most of a chip, at sizes and in places that no spec's first model has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from archc.verification.launch import Launch
from archc.verification.launches import launches
from tests.codegen.test_router import router_spec
from tests.codegen.test_running_maximum_kernel import SPEC as RUNNING
from tests.support import SPECS, compile_model

_WINDOW = """
arch A(heads = 4, keys = 192, values = 128) {
  forward(x: float[B, T, 64]) {
    q, k = split_heads(linear(x, heads * keys) as q, heads), split_heads(linear(x, 2 * keys) as k, 2)
    o = attention(q, k, split_heads(linear(x, 2 * values) as v, 2), mask = sliding(129))
    return linear(merge_heads(o), 64) as o
  }
}
model a = A()
"""
_PAIRS = """
arch A(heads = 32, keys, values, mask, biases = heads) {
  forward(x: float[B, T, 64], about: float[B, T, T, 16]) {
    q, k = split_heads(linear(x, heads * keys) as q, heads), split_heads(linear(x, 8 * keys) as k, 8)
    v = split_heads(linear(x, 8 * values) as v, 8)
    o = attention(q, k, v, mask = mask, bias = pair_bias(linear(about, biases) as b))
    return linear(merge_heads(o), 64) as o
  }
}
model a = A(keys = 128, values = 128, mask = causal)
model b = A(keys = 192, values = 128, mask = sliding(100))
model c = A(keys = 192, values = 128, mask = full, biases = 1)
"""
_KEYS = _PAIRS.replace(", about: float[B, T, T, 16]", "").replace(
    "pair_bias(linear(about", "key_bias(linear(x"
)
_BY_QUERY = "split_heads(linear(x, biases * 50) as b, biases), beyond = nearest"
_DISTANCES = (
    _PAIRS.replace("64], about: float[B, T, T, 16]", "640]")
    .replace(
        "pair_bias(linear(about, biases) as b)", f"distance_bias(positions(x), key_positions(x), {_BY_QUERY})"
    )
    .replace("model c", "model d = A(keys = 192, values = 128, mask = full)\nmodel c")
)
_BEST = "best_keys(attention_scores(k, k, wide = true), k, 64)"
_CHOSEN_PAIRS = _PAIRS.replace("bias =", f"among = {_BEST}, bias =")
_CHOSEN = """
import deepseek_v32
model a = DeepseekV32(
  d = 64, layers = 1, dense = 1, heads = 128, q_rank = 64, d_ff = 64, experts = 8, expert_d_ff = 8, vocab = 9,
)
"""


def windows_of_keys_wider_than_values() -> list[Launch]:
    """Where keys of 192 and values of 128 meet a window, their gradient needs most registers."""
    found = _launches(_WINDOW, "a")
    return [next(launch for launch in found if launch.name.endswith("_key_gradient_kernel"))]


def biases_of_pairs() -> list[Launch]:
    """A tile of a bias lies beside the scores; its gradient has queries, keys, values and results at once."""
    return _of_attention(_PAIRS, "abc", kernels=4)


def biases_of_pairs_where_keys_are_chosen() -> list[Launch]:
    """The bits of choices lie beside both."""
    return _of_attention(_CHOSEN_PAIRS, "ac", kernels=4)


def biases_of_keys() -> list[Launch]:
    """In larger tiles than biases of pairs."""
    return _of_attention(_KEYS, "ab", kernels=3)


def biases_by_distance() -> list[Launch]:
    """Each score has an address of its own to read at, and in the gradient of queries one to write at."""
    return _of_attention(_DISTANCES, "bd", kernels=3)


def rows_of_odd_lengths() -> list[Launch]:
    """Where each value has its own address and mask, products of many rows need most registers."""
    found = _launches(SPECS / "switch.arch", "switch_tiny")
    found = [launch for launch in found if dict(launch.constants).get("ROWS", 0) > 16]
    assert {"_grouped_linear_kernel", "_wide_linear_kernel"} <= {launch.name for launch in found}
    return found


def states_of_few_keys() -> list[Launch]:
    """Where one product takes all keys, gradients of values have all of their operands at once."""
    found = _launches(SPECS / "mamba2.arch", "mamba2_tiny")
    return [launch for launch in found if "_value_gradients" in launch.name]


def choices_among_many_experts() -> list[Launch]:
    """With a bias for the choice among 512, and groups of which the two largest count among 510."""
    routers = {"a bias for the choice": 512, "the two largest of groups": 510}
    found = [each for router, count in routers.items() for each in _launches(router_spec(router, count), "a")]
    found = [launch for launch in found if launch.name in ("_route_kernel", "_route_backward_kernel")]
    assert len(found) == 4
    return found


def chosen_keys_of_a_latent() -> list[Launch]:
    """Where keys lie takes registers, beside those for 512 values of each head; with padding most."""
    found = _launches(_CHOSEN, "a")
    return [next(launch for launch in found if launch.name == "_latent_attention_step_kernel")]


def running_maxima() -> list[Launch]:
    """For many tokens and for one."""
    text = RUNNING.replace("DECAY", "-exp(parameter([d]) as decline)").replace("FIRST", "none")
    found = _launches(text, "running", {"d": "300"})
    found = [launch for launch in found if launch.name == "_running_maximum_kernel"]
    assert len(found) == 2
    return found


HARD: dict[str, Callable[[], list[Launch]]] = {
    made.__name__: made
    for made in (
        windows_of_keys_wider_than_values,
        biases_of_pairs,
        biases_of_pairs_where_keys_are_chosen,
        biases_of_keys,
        biases_by_distance,
        rows_of_odd_lengths,
        states_of_few_keys,
        choices_among_many_experts,
        chosen_keys_of_a_latent,
        running_maxima,
    )
}


def _of_attention(text: str, models: str, kernels: int) -> list[Launch]:
    """Of all tokens of models that have so many kernels for it."""
    found = [each for model in models for each in _launches(text, model)]
    found = [each for each in found if {"QUERIES", "KEYS"} <= dict(each.constants).keys()]
    assert len({launch.name for launch in found}) == kernels
    return found


def _launches(spec: Path | str, model: str, settings: Mapping[str, str] | None = None) -> list[Launch]:
    with tempfile.TemporaryDirectory() as folder:
        return launches(compile_model(spec, model, settings), Path(folder), torch.bfloat16)
