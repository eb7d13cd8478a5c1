"""The largest value so far, held to one token after the other; what it makes of a sum that no float holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from archc import compiler
from archc.compiler import standard_rules
from archc.errors import SpecError
from archc.ir.op import OPS
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.stages import check_stages
from tests.support import build, distance, scramble

BATCH, TOKENS, HEADS = 2, 9, 3

SPEC = """
    arch Stable(d = 12, heads = 3, vocab = 16) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, vocab, d) as embed
        for i in 0..2 as layers {
          gate = upcast(linear(x, heads) as gate)
          m, change = running_maximum(gate, log_decay = -softplus(upcast(linear(x, heads) as forget)))
          k = upcast(split_heads(linear(x, d) as k, heads)) * unsqueeze(exp(gate - m))
          v = upcast(split_heads(linear(x, d) as v, heads))
          o = linear_attention(k, k, concat(v, ones(unsqueeze(m))), log_decay = change)
          value, norm = split(o, [4, 1])
          x = x + cast_like(merge_heads(value / (1 + absolute(norm))), x)
        }
        return linear(x, vocab) as head
      }
    }
    model stable = Stable()
"""


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(BATCH, TOKENS, HEADS, generator=generator, dtype=torch.float64)
    decay = -torch.rand(BATCH, TOKENS, HEADS, generator=generator, dtype=torch.float64)
    decay[0, 4, 1] = -torch.inf
    return x, decay


def carried(
    x: Tensor,
    decay: Tensor,
    first: float | None,
    positions: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    positions = torch.arange(x.shape[1])[None] if positions is None else positions
    m, step = OPS["carry_maximum"].reference(x, positions, decay, state, first=first)
    return m, step


@pytest.mark.parametrize("first", [None, 0.0, 2.5])
def test_it_is_that_of_one_token_after_the_other(first: float | None) -> None:
    x, decay = operands()
    m, step = carried(x, decay, first)
    before = x[:, 0] if first is None else torch.full_like(x[:, 0], first) + decay[:, 0]
    for t in range(TOKENS):
        now = torch.maximum(before if t == 0 else before + decay[:, t], x[:, t])
        torch.testing.assert_close(m[:, t], now)
        if t:
            # A decay to nothing leaves nothing, and no number that is none.
            torch.testing.assert_close(step[:, t].exp(), (before + decay[:, t] - now).exp())
        before = now
    assert (step < 1e-9).all()
    assert step.isfinite().all()


@pytest.mark.parametrize("first", [None, 0.0])
def test_padding_leaves_it_and_calls_go_on(first: float | None) -> None:
    """One sequence begins after three tokens of padding and has two between calls, which change nothing."""
    x, decay = operands()
    alone = [each[:1, 3:] for each in carried(x, decay, first)]
    real = carried(x[:1, 3:], decay[:1, 3:], first)
    positions = torch.tensor([[-1, -1, -1, 0, 1, 2, 3, 4, 5]])
    state = torch.zeros(1, HEADS, dtype=torch.float64)
    parts = [
        carried(x[:1, part], decay[:1, part], first, positions[:, part], state)
        for part in (slice(0, 2), slice(2, 5), slice(5, 6), slice(6, TOKENS))
    ]
    for whole, pieces, other in zip(real, zip(*parts, strict=True), alone, strict=True):
        joined = torch.cat(pieces, 1)
        torch.testing.assert_close(joined[:, 3:], whole)
        assert joined.isfinite().all()
        assert not torch.equal(other, whole)  # what came before does matter where it is no padding
    gap = torch.full((1, 2), -1)
    before = state.clone()
    carried(x[:1, :2], decay[:1, :2], first, gap, state)
    assert torch.equal(state, before)


def test_sums_beyond_floats(tmp_path: Path) -> None:
    """Gates of e^+-300, whose sums float32 does not hold, give in float32 what they give in float64."""
    package = build(SPEC, "stable", tmp_path)
    tokens = torch.randint(16, (2, 11), generator=torch.Generator().manual_seed(1))
    for kind in (package.Model, package.Reference):
        model = kind()
        scramble(model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "gate" in name:
                    weight.mul_(300)
        wide = kind(dtype=torch.float64)
        wide.load_state_dict(model.state_dict())
        truth = wide(tokens)
        assert distance(model(tokens), truth) < 1e-4  # a gate of 300 is rounded to 1e-5
        cache = wide.new_cache(2, 11)
        pieces = [wide(piece, cache=cache) for piece in tokens.split([4, 1, 1, 5], 1)]
        assert distance(torch.cat(pieces, 1), truth) < 1e-12
        truth.sum().backward()
        assert all(weight.grad.isfinite().all() for weight in wide.parameters())


def test_stages_start_alike_at_any_position() -> None:
    """Without a cache there is no state to start from, whatever the first token's position is."""
    (program,) = compiler.lower_models(compiler.read_spec_text(SPEC), ["stable"])
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=False)
    assert [outcome.case for outcome in outcomes if not outcome.holds] == []


def test_its_mistakes_are_told() -> None:
    wrong = SPEC.replace("-softplus(upcast(linear(x, heads) as forget))", "upcast(linear(x, d) as forget)")
    with pytest.raises(SpecError, match=r"needs the shape of .*\[B, T, 3\]"):
        compiler.lower_models(compiler.read_spec_text(wrong), ["stable"])
