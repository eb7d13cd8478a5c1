"""The cache of a package: exactly the planned bytes, and decoding that no ring's turn or padding changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import SPECS, build, distance, scramble

WINDOW, CHUNK = 5, 6
BLOCK = """
    q = rotate(split_heads(linear(x, 4 * 8) as q_proj, 4), rope(theta = 1e4))
    k = rotate(split_heads(linear(x, 2 * 8) as k_proj, 2), rope(theta = 1e4))
    v = split_heads(silu(linear(x, 2 * 6) as v_proj), 2)"""
# Layers of each kind of mask, and one whose two attentions share keys and values.
MIXED = f"""arch Mixed(d = 24) {{
  block Layer(x, mask) {{{BLOCK}
    return linear(merge_heads(attention(q, k, v, mask = mask)), d) as o_proj
  }}
  block Twice(x) {{{BLOCK}
    near = attention(q, k, v, mask = sliding({WINDOW - 2}))
    far = attention(q, k, v, mask = sliding({WINDOW}))
    return linear(merge_heads(near + far), d) as o_proj
  }}
  forward(tokens: [B, T]) {{
    x = embedding(tokens, 50, d) as wte
    for i in 0..4 as layers {{
      if i == 3 {{
        x = x + Twice(rms_norm(x, 1e-6) as norm) as attn
      }} else {{
        x = x + Layer(rms_norm(x, 1e-6) as norm, [sliding({WINDOW}), causal, chunked({CHUNK})][i]) as attn
      }}
    }}
    return linear(x, 50) as head
  }}
}}
model mixed = Mixed()
"""
LENGTH = 29  # five windows, almost five chunks
KINDS = ("Model", "Reference")


def cache_bytes(cache: Any) -> int:
    """Of the memory that was allocated, not of views of it."""
    stores = [store for layer in cache.layers for store in layer.values()]
    return sum(store.untyped_storage().nbytes() for store in stores)


def made(kind: str, spec: Any, model: str, folder: Path, **settings: str) -> Any:
    built = getattr(build(spec, model, folder, settings or None), kind)(dtype=torch.float64)
    scramble(built)
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_bytes(kind: str, tmp_path: Path) -> None:
    """In float64 and for 3 sequences: values of each token, and no more tokens than a mask reaches."""
    element = 8 * 3
    gqa = made(kind, SPECS / "llama3.arch", "llama3_tiny", tmp_path)
    assert cache_bytes(gqa.new_cache(3, 100)) == element * 100 * 3 * 2 * (2 * 12)
    published = {"kv_rank": "512", "rotary": "64", "nope": "128", "v_dim": "128"}
    latent = made(kind, SPECS / "latent.arch", "latent_tiny", tmp_path, **published)
    assert cache_bytes(latent.new_cache(3, 100)) == element * 100 * 3 * 576
    mixed = made(kind, MIXED, "mixed", tmp_path)
    token = element * 2 * (8 + 6)
    for length in (100, 1000):
        expected = token * (2 * WINDOW + length + CHUNK)
        assert cache_bytes(mixed.new_cache(3, length)) == expected
    assert cache_bytes(mixed.new_cache(3, 4)) == token * 4 * 4


@pytest.fixture(scope="module", params=KINDS)
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(request.param, MIXED, "mixed", tmp_path_factory.mktemp("mixed"))


def tokens(batch: int = 2) -> Tensor:
    return torch.randint(0, 50, (batch, LENGTH), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize(
    "pieces",
    [[1] * LENGTH, [3, 1, 1, 4, 1, 2, 6, 1, 10], [12, 1, 16], [LENGTH]],
    ids=lambda sizes: str(len(sizes)),
)
def test_decoding_past_every_window(mixed: Any, pieces: list[int]) -> None:
    """Token by token, several at once, more at once than a ring holds."""
    cache = mixed.new_cache(2, LENGTH)
    parts = [mixed(piece, cache=cache) for piece in tokens().split(pieces, 1)]
    assert distance(torch.cat(parts, 1), mixed(tokens())) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize(
    "pieces", [[9] + [1] * 20, [4, 7, 1, 17], [LENGTH]], ids=lambda sizes: str(len(sizes))
)
def test_padding_anywhere(mixed: Any, pieces: list[int]) -> None:
    """Tokens keep their values whatever padding is left of, right of and among them."""
    real = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.7
    real[0, :7], real[1, 20:] = False, False
    given, cache = tokens(3), mixed.new_cache(3, LENGTH)
    split = zip(given.split(pieces, 1), real.split(pieces, 1), strict=True)
    found = torch.cat([mixed(piece, padding=mask, cache=cache) for piece, mask in split], 1)
    for row in range(3):
        alone = mixed(given[row : row + 1, real[row]])[0]
        assert distance(found[row, real[row]], alone) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("prompt", [1, 4, 13])
@pytest.mark.parametrize("padded", [False, True])
def test_steps_with_all_state_on_the_device(mixed: Any, prompt: int, padded: bool) -> None:
    real = torch.ones(2, LENGTH).bool()
    real[0, : prompt // 2] = not padded
    whole = mixed(tokens(), padding=real if padded else None)
    cache = mixed.new_cache(2, LENGTH)
    mixed(tokens()[:, :prompt], padding=real[:, :prompt] if padded else None, cache=cache)
    cache.start_steps()
    parts = [mixed(token, cache=cache) for token in tokens()[:, prompt:].split(1, 1)]
    assert distance(torch.cat(parts, 1), whole[:, prompt:]) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_going_back_and_on(mixed: Any, padded: bool) -> None:
    """Drafted tokens are forgotten, as long as no ring has overwritten any; a cache begins anew."""
    real = torch.ones(2, LENGTH).bool()
    real[0, :2] = not padded
    cache = mixed.new_cache(2, LENGTH)

    def call(given: Tensor, start: int, end: int) -> Tensor:
        mask = real[:, start:end] if padded else None
        return mixed(given[:, start:end], padding=mask, cache=cache)

    drafted = tokens().roll(1, 1)
    call(tokens(), 0, 3)
    call(drafted, 3, WINDOW)
    cache.rewind(3)
    whole = mixed(tokens(), padding=real if padded else None)
    assert distance(call(tokens(), 3, LENGTH), whole[:, 3:]) < 1e-12
    with pytest.raises(ValueError, match=f"only the last {WINDOW} tokens: go on from an earlier `take`"):
        cache.rewind(LENGTH - 1)
    with pytest.raises(ValueError, match=f"{LENGTH} tokens are in the cache: it cannot go back to"):
        cache.rewind(LENGTH + 1)
    cache.rewind(0)
    assert distance(mixed(drafted, cache=cache), mixed(drafted)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mixed", "mamba2_tiny"])
def test_sequences_taken_from_a_cache(name: str, kind: str, tmp_path: Path) -> None:
    """In another order, one twice; each goes on as it would have, and the cache it was taken from too."""
    model = made(kind, MIXED if name == "mixed" else SPECS / "mamba2.arch", name, tmp_path)
    real = torch.ones(3, LENGTH).bool()
    real[1, 2:4] = False
    cache, rows, begun = model.new_cache(3, LENGTH), torch.tensor([2, 1, 1, 0]), 11
    model(tokens(3)[:, :begun], padding=real[:, :begun], cache=cache)
    taken = cache.take(rows)
    given = tokens(4)
    given[:, :begun] = tokens(3)[rows, :begun]
    whole = model(given, padding=real[rows])
    assert distance(model(given[:, begun:], cache=taken), whole[:, begun:]) < 1e-12
    whole = model(tokens(3), padding=real)
    assert distance(model(tokens(3)[:, begun:], cache=cache), whole[:, begun:]) < 1e-12
    if name == "mamba2_tiny":
        with pytest.raises(ValueError, match="their state after all tokens so far"):
            cache.rewind(begun)
        cache.rewind(0)
        assert distance(model(given[:3], cache=cache), model(given[:3])) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_no_tokens_are_no_mistake(mixed: Any, cached: bool) -> None:
    cache = mixed.new_cache(2, LENGTH) if cached else None
    for before in (0, 9) if cached else (0,):
        mixed(tokens()[:, :before], cache=cache)
        assert mixed(tokens()[:, :0], cache=cache).shape == (2, 0, 50)


WIDE = """arch Wide(d = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 50, d) as wte
    for i in 0..2 as layers {
      q, k, v = split(upcast(linear(x, 3 * d) as qkv), 3)
      k = split_heads(exp(k), 3)
      o = attention(split_heads(q, 3), k, split_heads(v, 3), mask = [causal, sliding(5)][i])
      x = x + cast_like(merge_heads(o), x)
    }
    return linear(x, 50) as head
  }
}
model wide = Wide()
"""


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_keys_in_float32_stay_so(kind: str, tmp_path: Path) -> None:
    """Keys and values that a spec widens are kept so: a cache rounds nothing that a whole call does not."""
    model = getattr(build(WIDE, "wide", tmp_path), kind)(dtype=torch.bfloat16)
    scramble(model)
    cache = model.new_cache(2, LENGTH)
    assert {store.dtype for layer in cache.layers for store in layer.values()} == {torch.float32}
    parts = [model(piece, cache=cache) for piece in tokens().split([9, 1, LENGTH - 13, 3], 1)[:3]]
    cache.start_steps()
    parts += [model(token, cache=cache) for token in tokens()[:, -3:].split(1, 1)]
    assert distance(torch.cat(parts, 1), model(tokens())) < 1e-3
