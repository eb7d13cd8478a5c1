"""What follows from positions alone stands for all sequences, also where an op takes a row of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import build, scramble

SPEC = """
arch Placed(d = 12, count = 4) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 30, d) as embed
    for i in 0..2 as layers {
      place = unsqueeze(positions(x))
      places = concat(place, place + 1)
      chosen = places - count * whole_quotient(places, count)
      weights = gather(sigmoid(linear(x, count) as router), chosen)
      y = experts e in chosen of count {
        return weights[e] * linear(x, d) as own
      }
      s = sinusoid(x, positions(x))
      shares, turns = top_k(softmax(linear(s, count) as turn), 1)
      y = y + experts e in turns of count {
        return shares[e] * linear(s, d) as alone
      }
      z = experts e in turns of count apart {
        return linear(s, d) as apart
      }
      q = split_heads(linear(s, d) as q, 2)
      a = merge_heads(attention(q, q, q, mask = MASK))
      few = within_capacity(shares, turns, count, 2)
      y = y + experts e in turns of count {
        return few[e] * linear(s + a, d) as few
      }
      m, _ = running_maximum(linear(s, d) as exponent, log_decay = -softplus(linear(x, d) as decay))
      x = x + y + linear(concat(x, merge_heads(z)), d) as joined + cast_like(tanh(m), x)
    }
    return linear(x, 30) as head
  }
}
model placed = Placed()
"""


@pytest.mark.parametrize("mask", ["causal", "sliding(2)"])
@pytest.mark.parametrize("kind", ["Model", "Reference"])
def test_two_sequences_are_as_each_alone(kind: str, mask: str, tmp_path: Path) -> None:
    package = build(SPEC.replace("MASK", mask), "placed", tmp_path)
    model = getattr(package, kind)(dtype=torch.float64)
    scramble(model)
    tokens = torch.randint(30, (2, 6))
    together = model(tokens)
    torch.testing.assert_close(together, torch.cat([model(row[None]) for row in tokens]))
    cache = model.new_cache(2, 6)
    parts = [model(part, cache=cache) for part in tokens.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), together)
    cache = model.new_cache(2, 6)
    parts = [model(tokens[:, :3], cache=cache)]
    cache.start_steps()
    parts += [model(token, cache=cache) for token in tokens[:, 3:].split(1, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), together)
