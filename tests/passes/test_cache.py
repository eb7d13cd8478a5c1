"""What decoding keeps, on architectures that nobody has built: the cut, the slots, the absorbed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from archc.analysis.cache import cache_size
from archc.compiler import Compilation
from archc.ir.decoding import decodes
from archc.ir.graph import Graph
from archc.ir.interpreter import Interpreter
from archc.ir.op import OPS
from archc.ir.ops.structure import APPEND, BRANCH
from archc.target import CUDA
from archc.verification.cases import random_weights
from archc.verification.stages import check_stages
from tests.support import ROOT, SPECS, compile_model, distance, few

Slots = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Design:
    """A block of attention with what it must keep.  The block reads `x` and the arch's sizes."""

    block: str
    slots: Slots
    absorbs: bool
    sizes: str = "heads = 6, kv_heads = 2, n = 8, r = 4, v_dim = 6, rank = 10"


ROTATED_KEY = "expand_heads(rotate(split_heads(linear(x, r) as k_pe, 1), rope), heads)"
QUERY = "q = split_heads(linear(x, heads * (n + r)) as q_proj, heads)"

DESIGNS = {
    "grouped queries": Design(
        """q = rotate(split_heads(linear(x, heads * n) as q_proj, heads), rope)
        k = rotate(split_heads(linear(x, kv_heads * n) as k_proj, kv_heads), rope)
        v = split_heads(linear(x, kv_heads * n) as v_proj, kv_heads)
        o = attention(q, k, v, mask = causal)""",
        {"k": (2, 8), "v": (2, 8)},
        False,
    ),
    "a window seen from an earlier place": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        k = split_heads(linear(x, kv_heads * n) as k_proj, kv_heads)
        v = rotate(split_heads(linear(x, kv_heads * n) as v_proj, kv_heads), rope)
        place = maximum(positions(x) - 3, 0)
        o = attend(q, k, v, place, key_positions(x), mask = sliding(2), scale = 0.3)""",
        {"k": (2, 8), "v": (2, 8)},
        False,
    ),
    "a latent and a rotary key": Design(
        f"""{QUERY}
        c = rms_norm(linear(x, rank) as down, 1e-6) as norm
        k, v = split(split_heads(linear(c, heads * (n + v_dim)) as up, heads), [n, v_dim])
        k = concat(k, {ROTATED_KEY})
        o = attention(q, k, v, mask = causal)""",
        {"latent": (1, 14)},
        True,
    ),
    "the rotary key first": Design(
        f"""{QUERY}
        c = rms_norm(linear(x, rank) as down, 1e-6) as norm
        k, v = split(linear(c, heads * (n + v_dim)) as up, [heads * n, heads * v_dim])
        k = concat({ROTATED_KEY}, split_heads(k, heads))
        o = attention(q, k, split_heads(v, heads), mask = causal)""",
        {"latent": (1, 14)},
        True,
    ),
    "a latent with two maps": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        c = silu(linear(x, rank) as down)
        k = split_heads(linear(c, kv_heads * n) as k_up, kv_heads)
        v = split_heads(linear(c, kv_heads * v_dim) as v_up, kv_heads)
        o = attention(q, k, v, mask = causal)""",
        {"latent": (1, 10)},
        True,
    ),
    "two latents": Design(
        f"""{QUERY}
        c = silu(linear(x, rank) as k_down)
        e = silu(linear(x, rank) as v_down)
        k = concat(split_heads(linear(c, heads * n) as k_up, heads), {ROTATED_KEY})
        o = attention(q, k, split_heads(linear(e, heads * v_dim) as v_up, heads), mask = causal)""",
        {"latent": (1, 14), "latent_2": (10,)},
        True,
    ),
    "values of low rank": Design(
        """q = rotate(split_heads(linear(x, heads * n) as q_proj, heads), rope)
        k = rotate(split_heads(linear(x, kv_heads * n) as k_proj, kv_heads), rope)
        v = split_heads(linear(silu(linear(x, rank) as v_down), kv_heads * v_dim) as v_up, kv_heads)
        o = attention(q, k, v, mask = causal)""",
        {"k": (2, 8), "latent": (10,)},
        True,
    ),
    "keys of low rank": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        k = split_heads(linear(silu(linear(x, rank) as k_down), kv_heads * n) as k_up, kv_heads)
        v = silu(split_heads(linear(x, kv_heads * v_dim) as v_proj, kv_heads))
        o = attention(q, k, v, mask = causal)""",
        {"latent": (1, 10), "v": (2, 6)},
        True,
    ),
    "a shared key": Design(
        f"""q = rotate(split_heads(linear(x, heads * r) as q_proj, heads), rope)
        v = silu(split_heads(linear(x, heads * v_dim) as v_proj, heads))
        o = attention(q, {ROTATED_KEY}, v, mask = causal)""",
        {"k": (1, 4), "v": (6, 6)},
        False,
    ),
    "a rotary key beside keys of heads": Design(
        f"""{QUERY}
        k = concat(silu(split_heads(linear(x, heads * n) as k_proj, heads)), {ROTATED_KEY})
        v = silu(split_heads(linear(x, heads * v_dim) as v_proj, heads))
        o = attention(q, k, v, mask = causal)""",
        {"k": (6, 12), "v": (6, 6)},
        False,
    ),
    "a latent that is its own key": Design(
        """q = split_heads(linear(x, heads * rank) as q_proj, heads)
        c = silu(linear(x, rank) as down)
        v = split_heads(linear(c, heads * v_dim) as up, heads)
        o = attention(q, expand_heads(split_heads(c, 1), heads), v, mask = causal)""",
        {"latent": (1, 10)},
        True,
    ),
    "one latent under two attentions": Design(
        """c = silu(linear(x, rank) as down)
        q = split_heads(linear(x, heads * n) as q_proj, heads)
        k, v = split(split_heads(linear(c, heads * (n + v_dim)) as up, heads), [n, v_dim])
        o = attention(q, k, v, mask = causal)
        k, v = split(split_heads(linear(c, heads * (n + v_dim)) as other, heads), [n, v_dim])
        o = o + attention(q, k, v, mask = causal)""",
        {"latent": (10,)},
        True,
    ),
    "keys and values under two attentions": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        k = rotate(split_heads(linear(x, kv_heads * n) as k_proj, kv_heads), rope)
        v = silu(split_heads(linear(x, kv_heads * n) as v_proj, kv_heads))
        o = attention(q, k, v, mask = causal) * attention(rotate(q, rope), k, v, mask = causal)""",
        {"k": (2, 8), "v": (2, 8)},
        False,
    ),
    "a bias in between": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        c = silu(linear(x, rank) as down)
        k = split_heads(linear(c, kv_heads * n, bias = true) as k_up, kv_heads)
        v = split_heads(linear(c, kv_heads * v_dim, bias = true) as v_up, kv_heads)
        o = attention(q, k, v, mask = causal)""",
        {"k": (2, 8), "v": (2, 6)},
        False,
    ),
    "a function in between": Design(
        """q = split_heads(linear(x, heads * n) as q_proj, heads)
        c = linear(x, rank) as down
        k = split_heads(silu(linear(c, kv_heads * n) as k_up), kv_heads)
        v = split_heads(linear(c, kv_heads * v_dim) as v_up, kv_heads)
        o = attention(q, k, v, mask = causal)""",
        {"k": (2, 8), "latent": (10,)},
        True,
    ),
}


def compiled(design: Design, target: str = "cuda") -> Compilation:
    text = f"""arch A({design.sizes}, d = 20, layers = 2, rope = rope(theta = 1e4)) {{
      block Attend(x) {{
        {design.block}
        return linear(merge_heads(o), d) as o_proj
      }}
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 30, d) as wte
        for i in 0..layers as layers {{ x = x + Attend(rms_norm(x, 1e-6) as norm) as attn }}
        return linear(x, 30) as head
      }}
    }}
    model a = A()"""
    return compile_model(text, "a", target=target)


def slots(graph: Graph) -> Slots:
    kept = [node for part in graph.walk() for node in part.nodes() if node.op is APPEND]
    return {node.attributes["slot"]: tuple(map(int, node.types[0].shape[2:])) for node in kept}  # type: ignore[arg-type]


def branches(graph: Graph) -> int:
    return sum(node.op is BRANCH for part in graph.walk() for node in part.nodes())


@pytest.mark.parametrize("name", DESIGNS)
def test_the_cut(name: str) -> None:
    design = DESIGNS[name]
    compilation = compiled(design)
    assert slots(compilation.fused) == slots(compilation.reference) == design.slots
    assert bool(branches(compilation.fused)) == design.absorbs
    assert branches(compilation.reference) == 0
    values = sum(int(torch.tensor(shape).prod()) for shape in design.slots.values())
    assert cache_size(compilation.reference, 3, 7, 2).bytes == 3 * 7 * 2 * 2 * values


@pytest.mark.parametrize("name", few(DESIGNS, 6))
def test_every_pass_keeps_the_values(name: str) -> None:
    compilation = compiled(DESIGNS[name])
    outcomes = list(check_stages(compilation.program, compilation.context, each_pass=True))
    exact = [outcome for outcome in outcomes if outcome.check == "float64"]
    assert exact
    assert [outcome for outcome in exact if not outcome.holds] == []


@pytest.mark.parametrize("name", DESIGNS)
def test_decoding_equals_the_whole(name: str) -> None:
    """In pieces of one token and of several: what attention absorbs is the same in float64."""
    compilation = compiled(DESIGNS[name])
    weights = random_weights(compilation.program.graph)
    tokens = torch.randint(0, 30, (2, 13), generator=torch.Generator().manual_seed(0))
    whole = run(compilation.program.graph, weights, tokens, [13], None)
    for graph in (compilation.reference, compilation.fused):
        assert distance(run(graph, weights, tokens, [5, 1, 1, 4, 2], {}), whole) < 1e-12


def run(
    graph: Graph,
    weights: dict[str, Tensor],
    tokens: Tensor,
    sizes: Sequence[int],
    state: dict[object, Tensor] | None,
) -> Tensor:
    positions = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    interpreter = Interpreter(weights, state)
    parts, start = [], 0
    for size in sizes:
        new = slice(start, start + size)
        inputs = {
            "tokens": tokens[:, new],
            "positions": positions[:, new],
            "key_positions": positions[:, : new.stop],
        }
        parts.append(interpreter.run(graph, inputs)["logits"])
        start = new.stop
    return torch.cat(parts, 1)


def test_an_absorbed_form_that_is_off_is_found() -> None:
    """The comparison above runs the second form: with queries negated in it, it fails."""
    compilation = compiled(DESIGNS["a latent and a rotary key"])
    weights = random_weights(compilation.program.graph)
    tokens = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = run(compilation.program.graph, weights, tokens, [9], None)
    for part in compilation.fused.walk():
        for branch in part.branches():
            absorbed = branch.bodies[1]
            (queries,) = [node for node in absorbed.nodes() if node.op.name == "absorb_keys"]
            (negated,) = absorbed.add_like(queries, OPS["neg"], queries.outputs).outputs
            absorbed.replace_uses(queries.outputs[0], negated, but=[negated.node])
    assert distance(run(compilation.fused, weights, tokens, [9], None), whole) < 1e-12
    assert distance(run(compilation.fused, weights, tokens, [3, 1, 5], {}), whole) > 1e-3


PLAIN = """q = split_heads(linear(x, heads * n) as q_proj, heads)
    k = split_heads(linear(x, heads * n) as k_proj, heads)
    v = split_heads(linear(x, heads * n) as v_proj, heads)
    o = attention(q, k, v, mask = causal)"""


def remarks(compilation: Compilation) -> str:
    return "\n".join(r.text for r in compilation.report.remarks if r.pass_name == "cache")


def test_heads_without_positions_keep_their_input_where_the_roofline_says_so() -> None:
    """Under half the bytes, for multiplications that a GPU has to spare and a CPU has not."""
    design = Design(PLAIN, {"latent": (1, 20)}, True, sizes="heads = 4, n = 8")
    on_gpu = compiled(design)
    assert slots(on_gpu.fused) == {"latent": (1, 20)}
    assert "40 bytes in place of 128" in remarks(on_gpu)
    many = Design(PLAIN, {}, False, sizes="heads = 64, n = 1")
    on_cpu = compiled(many, "cpu")
    assert slots(on_cpu.fused) == {"k": (64, 1), "v": (64, 1)}
    assert "fewer bytes would do, but a token of context would take" in remarks(on_cpu)


def test_a_convolution_is_told_of_in_its_own_words() -> None:
    text = """import std
    arch A(d = 8) {
      forward(tokens: [B, T]) {
        x = rms_norm(embedding(tokens, 9, d) as wte, 1e-6) as norm
        return linear(CausalConv(linear(x, 3 * d) as wide, taps = 4) as conv, 9) as head
      }
    }
    model a = A()"""
    told = "fewer bytes would do, but what `causal_conv` reads would be made of it again with each token"
    assert told in remarks(compile_model(text, "a"))


def test_keys_are_not_joined_again_with_each_token() -> None:
    """They would be read, written and read again, where attention cannot take their parts."""
    told = "fewer bytes would do, but `concat` would join them again with each token"
    assert told in remarks(compiled(DESIGNS["a rotary key beside keys of heads"]))
    assert told not in remarks(compiled(DESIGNS["a latent and a rotary key"]))


def test_ties_go_to_the_later_value() -> None:
    """Two heads of 5 on a width of 20: keys and values are no more than their input."""
    assert slots(compiled(Design(PLAIN, {}, False, sizes="heads = 2, n = 5")).fused) == {
        "k": (2, 5),
        "v": (2, 5),
    }


def test_a_head_wider_than_the_target_holds_is_refused() -> None:
    text = """arch A(d = 2048, heads = 32) {
      forward(tokens: [B, T]) {
        x = rms_norm(embedding(tokens, 9, d) as wte, 1e-6) as norm
        q, k, v = split(linear(x, 3 * d) as qkv, 3)
        o = attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), mask = causal)
        return linear(merge_heads(o), 9) as head
      }
    }
    model a = A()"""
    compilation = compile_model(text, "a")
    assert slots(compilation.fused) == {"k": (32, 64), "v": (32, 64)}
    assert f"heads would be 2048 wide, and `cuda` attends over {CUDA.max_head} at most" in remarks(
        compilation
    )


def test_the_published_sizes_keep_576_values() -> None:
    sizes = "heads = 128, kv_heads = 1, n = 128, r = 64, v_dim = 128, rank = 512"
    published = DESIGNS["a latent and a rotary key"]
    compilation = compiled(Design(published.block, published.slots, True, sizes))
    assert slots(compilation.fused) == {"latent": (1, 576)}
    assert "1,152 bytes in place of 81,920" in remarks(compilation)
    (branch,) = [node for part in compilation.fused.walk() for node in part.branches()]
    assert branch.attributes["few"] == 512 * 256 // (1088 - 320)
    assert {fired.rule: fired.relaxations for fired in compilation.report.fired}["absorb"] == (
        "reassociation",
    )


def test_the_page_on_caches_shows_what_is_told() -> None:
    page = " ".join((ROOT / "docs" / "cache.md").read_text().split())
    assert f"cache: {remarks(compile_model(SPECS / 'latent.arch', 'latent_1b'))}" in page


def test_what_says_something_of_each_pair_of_tokens_does_not_come_in_pieces() -> None:
    source = """arch Unread(d = 8) {
  forward(tokens: [B, T], about: float[B, T, T]) {
    return linear(embedding(tokens, 20, d) as embed, 20) as head
  }
}
model unread = Unread()
"""
    compilation = compile_model(source, "unread")
    assert not decodes(compilation.fused)
    assert "`about` is [B, T, T], which is more than a row for each token" in remarks(compilation)
