"""Values that flow in other ways than from layer to layer: packages compute what their graphs say."""

from __future__ import annotations

import pytest

from archc.verification.packages import check_package
from tests.support import compile_model

_QKV = "q, k, v = split(linear(rms_norm(x, 1e-6) as norm, 3 * 24) as qkv, 3)"
_HEADS = "q, k, v = split_heads(q, 2), split_heads(k, 2), split_heads(v, 2)"
_EMBED = "x = embedding(tokens, 50, 24) as embed"
_HEAD = "return linear(x, 50) as head"

SPECS = {
    "every layer reads what the first one got": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          first = x
          for i in 0..2 as layers {{
            {_QKV}
            {_HEADS}
            x = x + linear(merge_heads(attention(q, k, v, mask = causal)), 24) as o
            x = x * parameter([24], init = fill(1)) as old + first * parameter([24], init = fill(0)) as new
          }}
          {_HEAD}
        }}""",
    "two attentions of a layer share their values": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          for i in 0..2 as layers {{
            {_QKV}
            a, b = split(split_heads(q, 2), 2)
            c, d = split(split_heads(k, 2), 2)
            v = split_heads(v, 2)
            one, other = attention(a, c, v, mask = causal), attention(b, d, v, mask = causal)
            factor = sum(parameter([6]) as left * parameter([6]) as right)
            x = x + linear(merge_heads(one - factor * other), 24) as o
          }}
          {_HEAD}
        }}""",
    "attention over states that are given, without decoding": f"""
        forward(states: float[B, M, 10], tokens: [B, T] = 1) {{
          {_EMBED}
          for i in 0..2 as layers {{
            {_QKV}
            {_HEADS}
            x = x + linear(merge_heads(attention(q, k, v, mask = causal)), 24) as o
            k, v = split(linear(states, 48) as kv, 2)
            q = split_heads(linear(x, 24) as cross_q, 2)
            o = attention(q, split_heads(k, 2), split_heads(v, 2), mask = full)
            x = x + tanh(parameter([24]) as gate) * linear(merge_heads(o), 24) as cross_o
          }}
          {_HEAD}
        }}""",
    "one layer's weights in all layers, with a map of each": f"""
        block Layer(x) {{
          {_QKV}
          {_HEADS}
          x = x + linear(merge_heads(attention(q, k, v, mask = causal)), 24) as o
          return x + linear(x, 24, tied_to = false) as own
        }}
        forward(tokens: [B, T]) {{
          {_EMBED}
          x = Layer(x) as layer
          for i in 0..2 {{ x = Layer(x + parameter([24]) as steps.{{i}}, tied_to = layer) as again.{{i}} }}
          {_HEAD}
        }}""",
    "a window on both sides, beside what the first layer got": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          first = x
          for i in 0..2 as layers {{
            {_QKV}
            {_HEADS}
            o = attend(q, k, v, positions(x) + 2, key_positions(x), mask = sliding(5), scale = 0.3)
            x = x + first + linear(merge_heads(o), 24) as o
          }}
          return states = x
        }}""",
    "values that attention reads, and the next token": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          {_QKV}
          {_HEADS}
          o = attention(q, k, v, mask = causal) + shift(v, positions(v), key_positions(v), by = 1)
          x = x + linear(merge_heads(o), 24) as o
          {_HEAD}
        }}""",
    "keys for later layers, beside values that a map makes": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          keys, values = none, none
          for i in 0..3 as layers {{
            q = split_heads(linear(x, 72) as q, 6)
            if i < 2 {{
              keys = rms_norm(split_heads(linear(x, 24) as k, 2), 1e-6) as norm
              values = split_heads(linear(x, 32) as v, 2)
            }}
            o = attention(q, keys, values, mask = causal if i < 2 else sliding(2))
            x = x + linear(merge_heads(o), 24) as o
          }}
          {_HEAD}
        }}""",
    "sinks over all keys in one layer of two": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          for i in 0..2 as layers {{
            {_QKV}
            {_HEADS}
            o = attention(q, k, v, mask = full, sinks = parameter([2]) as sinks if i == 0 else none)
            x = x + linear(merge_heads(o), 24) as o
          }}
          return states = x
        }}""",
    "three values of a loop that start as the same one": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          last, first = x, x
          for i in 0..4 as layers {{
            y = linear(x, 24) as o + 0.1 * last
            last, first, x = first, x, x + y
          }}
          {_HEAD}
        }}""",
    "queries and keys of one weight": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          for i in 0..2 as layers {{
            h = rms_norm(x, 1e-6) as norm
            one = split_heads(linear(h, 24) as q, 2)
            other = split_heads(linear(h, 24, tied_to = q) as k, 2)
            v = split_heads(linear(h, 24) as v, 2)
            x = x + linear(merge_heads(attention(one, other, v, mask = causal)), 24) as o
          }}
          {_HEAD}
        }}""",
    "a norm without a weight beside one that has": f"""
        forward(tokens: [B, T]) {{
          {_EMBED}
          for i in 0..2 as layers {{
            x = x + rms_norm(linear(x, 24) as up, 1e-5, weight = false)
            h = rms_norm(x, 1e-5) as norm
            x = x + linear(silu(linear(h, 8) as one) * linear(h, 8) as two, 24) as down
          }}
          {_HEAD}
        }}""",
}


@pytest.mark.parametrize("name", SPECS)
def test_a_package_computes_what_the_spec_says(name: str) -> None:
    compilation = compile_model(f"arch A() {{ {SPECS[name]} }} model a = A()", "a")
    assert [str(outcome) for outcome in check_package(compilation) if not outcome.holds] == []
