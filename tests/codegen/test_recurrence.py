"""Linear recurrences over tokens: the op held to sums over all earlier tokens, packages to verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc import compiler
from archc.analysis.cache import cache_size
from archc.errors import SpecError
from archc.ir.op import OPS
from archc.verification.verify import outcomes_of
from tests.support import build, compile_model, distance, scramble

BATCH, TOKENS, KV_HEADS, HEADS, KEY, VALUE = 2, 7, 2, 4, 3, 5
PLACES = torch.arange(TOKENS)[None]

DECAY = "log_decay = -softplus(upcast(linear(x, heads) as g))"
CHANNELS = "log_decay = -softplus(upcast(split_heads(linear(x, heads * dk) as channels, heads)))"
FIXED = "log_decay = -exp(upcast(parameter([heads]) as a_log))"
FIXED_CHANNELS = "log_decay = -exp(upcast(parameter([heads, dk]) as channels))"
BETA = "beta = sigmoid(linear(x, heads) as b)"
ERASED = "-rms_norm(split_heads(linear(x, heads * dk) as erased, heads), 1e-6, weight = false) * dk ** -0.5"
ERASE = f"erase = {ERASED}, renew = split_heads(sigmoid(linear(x, heads * dk) as r), heads)"

# What the spec below gives `linear_attention` besides queries, keys and values.
FORMS = {
    "plain": "",
    "decay": DECAY,
    "decay_by_channel": CHANNELS,
    "fixed_decay": FIXED,
    "fixed_by_channel": f"{FIXED_CHANNELS}, reads = before",
    "delta": f"{DECAY}, {BETA}, scale = dk ** -0.5",
    "delta_by_channel": f"{CHANNELS}, {BETA}, scale = dk ** -0.5",
    "delta_by_channel_before": f"{CHANNELS}, {BETA}, reads = before",
    "erase": f"{CHANNELS}, {ERASE}",
    "erase_before": f"{FIXED_CHANNELS}, {ERASE}, scale = dk ** -0.5, reads = before",
    "before": f"{DECAY}, reads = before",
    "delta_before": f"{DECAY}, {BETA}, reads = before",
    "plain_delta": BETA,
}

SPEC = """
    arch Recurrent(d = 24, heads = 4, kv_heads = 2, dk = 6, dv = 10, vocab = 32) {
      block Mixer(x) {
        q = split_heads(linear(x, kv_heads * dk) as q, kv_heads)
        k = split_heads(linear(x, kv_heads * dk) as k, kv_heads)
        v = split_heads(linear(x, heads * dv) as v, heads)
        return linear(merge_heads(linear_attention(q, k, v, FORM)), d) as o
      }
      forward(tokens: [B, T]) {
        x = embedding(tokens, vocab, d) as embed
        for i in 0..2 as layers {
          x = x + Mixer(rms_norm(x, 1e-6) as norm) as mixer
        }
        return linear(rms_norm(x, 1e-6) as norm, vocab) as head
      }
    }
    model recurrent = Recurrent()
"""


def spec(form: str) -> str:
    return SPEC.replace("FORM", FORMS[form])


def operands(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(BATCH, TOKENS, *shape, generator=generator, dtype=torch.float64)

    return {
        "q": normal(KV_HEADS, KEY),
        "k": normal(KV_HEADS, KEY),
        "v": normal(HEADS, VALUE),
        "g": -normal(HEADS).abs(),
        "channels": -normal(HEADS, KEY).abs(),
        "beta": normal(HEADS).sigmoid(),
        "erase": normal(HEADS, KEY),
        "renew": normal(HEADS, KEY),
    }


def recur(o: dict[str, Tensor], positions: Tensor = PLACES, **others: Any) -> Tensor:
    settings = {"scale": 1.0, "reads": "after", **others}
    result: Tensor = OPS["recur"].reference(o["q"], o["k"], o["v"], positions, **settings)
    return result


def by_hand(o: dict[str, Tensor], changes: Tensor, stored: Tensor, upto: int = 0) -> Tensor:
    """The sum over earlier tokens s of q_t (product of the `changes` after s) k_s stored_s, without a state.

    changes: [B, T, heads, K, K], by which each token multiplies S.  upto: 1 leaves out the token itself.
    """
    q, k = (o[name].repeat_interleave(HEADS // KV_HEADS, 2) for name in ("q", "k"))
    result = torch.zeros_like(o["v"])
    for t in range(TOKENS):
        for s in range(t + 1 - upto):
            way = torch.eye(KEY, dtype=torch.float64).expand(BATCH, HEADS, KEY, KEY)
            for between in range(s + 1, t + 1 - upto):
                way = changes[:, between] @ way
            share = torch.einsum("bhi,bhij,bhj->bh", q[:, t], way, k[:, s])
            result[:, t] += share[..., None] * stored[:, s]
    return result


def diagonal(log_decay: Tensor) -> Tensor:
    wide = log_decay if log_decay.dim() == 4 else log_decay[..., None].expand(*log_decay.shape, KEY)
    return torch.diag_embed(wide.exp())


@pytest.mark.parametrize("decay", ["g", "channels"])
def test_decays_are_products_over_the_tokens_between(decay: str) -> None:
    o = operands()
    assert distance(recur(o, log_decay=o[decay]), by_hand(o, diagonal(o[decay]), o["v"])) < 1e-14


def test_a_fixed_decay_is_that_of_every_token() -> None:
    o = operands()
    fixed = o["g"][0, 0]
    every = fixed.expand(BATCH, TOKENS, HEADS)
    assert torch.equal(recur(o, log_decay=fixed), recur(o, log_decay=every))


def test_the_delta_rule_multiplies_by_what_a_key_leaves() -> None:
    o = operands()
    k = o["k"].repeat_interleave(HEADS // KV_HEADS, 2)
    erased = torch.eye(KEY, dtype=torch.float64) - o["beta"][..., None, None] * k[..., None] * k[..., None, :]
    truth = by_hand(o, erased @ diagonal(o["g"]), o["beta"][..., None] * o["v"])
    assert distance(recur(o, log_decay=o["g"], beta=o["beta"]), truth) < 1e-14


def test_erase_reads_the_state_before_the_decay() -> None:
    o = operands()
    changes = diagonal(o["channels"]) + o["renew"][..., None] * o["erase"][..., None, :]
    found = recur(o, log_decay=o["channels"], erase=o["erase"], renew=o["renew"])
    assert distance(found, by_hand(o, changes, o["v"])) < 1e-14


def test_before_leaves_out_the_token_itself() -> None:
    o = operands()
    found = recur(o, log_decay=o["g"], reads="before")
    assert distance(found, by_hand(o, diagonal(o["g"]), o["v"], upto=1)) < 1e-14


def test_the_state_goes_on_where_the_last_call_ended() -> None:
    o = operands()
    whole = recur(o, log_decay=o["g"], beta=o["beta"], scale=0.5)
    state = torch.zeros(BATCH, HEADS, KEY, VALUE, dtype=torch.float64)
    parts = []
    for start, end in ((0, 3), (3, 4), (4, TOKENS)):
        part = {name: value[:, start:end] for name, value in o.items()}
        changes = {"log_decay": part["g"], "beta": part["beta"], "state": state}
        parts.append(recur(part, PLACES[:, start:end], scale=0.5, **changes))
    assert torch.equal(torch.cat(parts, 1), whole)


def test_no_tokens_have_no_results() -> None:
    o = {name: value[:, :0] for name, value in operands().items()}
    assert recur(o, PLACES[:, :0], log_decay=o["g"], beta=o["beta"]).shape == (BATCH, 0, HEADS, VALUE)


def test_padding_changes_nothing() -> None:
    o = operands()
    padded = torch.tensor([[-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]])
    found = recur(o, padded, log_decay=o["g"], beta=o["beta"])
    rest = {name: value[:1, 2:] for name, value in o.items()}
    alone = recur(rest, PLACES[:, :5], log_decay=rest["g"], beta=rest["beta"])
    assert torch.equal(found[:1, 2:], alone)


@pytest.mark.parametrize("form", FORMS)
def test_packages_agree_with_their_graph(form: str) -> None:
    compilation = compile_model(spec(form), "recurrent")
    outcomes = list(outcomes_of(compilation.program, compilation, each_pass=False))
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_a_cache_holds_states_and_nothing_of_each_token() -> None:
    compilation = compile_model(spec("delta"), "recurrent")
    size = cache_size(compilation.fused, batch=3, context=1000, element=2)
    layers, state = 2, 4 * 6 * 10
    assert (size.bytes_per_token, size.bytes) == (0, 3 * layers * state * 4)


def test_a_state_is_float32_in_half_precision(tmp_path: Path) -> None:
    package = build(spec("delta"), "recurrent", tmp_path)
    model = package.Model(dtype=torch.bfloat16)
    scramble(model)
    cache = model.new_cache(2, 8)
    model(torch.randint(32, (2, 5)), cache=cache)
    states = [state["state"] for state in cache.states]
    assert [(s.dtype, tuple(s.shape)) for s in states] == [(torch.float32, (2, 4, 6, 10))] * 2
    assert all(state.count_nonzero() == state.numel() for state in states)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("linear_attention(x, x, x)", "needs heads [B, T, heads, width]"),
        ("linear_attention(q, v, v)", "must be like the queries"),
        ("linear_attention(split_heads(x, 3), split_heads(x, 3), v)", "with a multiple of its heads"),
        ("linear_attention(q, q, v, log_decay = x)", "needs [B, T, heads] or"),
        ("linear_attention(q, q, v, erase = v)", "goes with `renew`"),
        ("linear_attention(q, q, v, beta = q)", "needs [B, T, heads], for 4 heads"),
        ("recur(q, q, v, positions(x), state = v, scale = 1, reads = after)", "state"),
    ],
)
def test_what_does_not_fit_is_told(call: str, reason: str) -> None:
    text = f"""
        arch A() {{
          forward(tokens: [B, T]) {{
            x = embedding(tokens, 8, 24) as embed
            q = split_heads(slice(x, 0, 12), 2)
            v = split_heads(x, 4)
            return linear({call}, 8) as head
          }}
        }}
        model a = A()
    """
    with pytest.raises(SpecError) as caught:
        compiler.lower_models(compiler.read_spec_text(text), ["a"])
    assert reason in str(caught.value)
