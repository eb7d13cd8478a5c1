"""Models whose texts consist of pieces, against PyTorch that makes the pieces a dim of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from archc.verification.packages import stored_tensors
from tests.support import build, distance, scramble

SPEC = Path(__file__).parent / "chunks.arch"
SIZE, HEADS, FOUND, PIECES = 4, 2, 6, (5, 1, 1, 4, 1, 1, 1)


class _Weights:
    """A checkpoint, and what layers compute with it."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def map(self, x: Tensor, path: str) -> Tensor:
        return x @ self.tensors[f"{path}.weight"].T

    def norm(self, x: Tensor, path: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.tensors[f"{path}.weight"], 1e-6)

    def look(self, qkv: tuple[Tensor, Tensor, Tensor], path: str, seen: Tensor) -> Tensor:
        """Attention [..., T, heads, width] over what is seen [T, S]."""
        q, k, v = (x.transpose(-2, -3) for x in qkv)
        return self.map(
            F.scaled_dot_product_attention(q, k, v, seen).transpose(-2, -3).flatten(-2), f"{path}o"
        )

    def attend(self, x: Tensor, path: str, seen: Tensor) -> Tensor:
        q, k, v = self.map(x, f"{path}qkv").unflatten(-1, (HEADS, -1)).chunk(3, -1)
        return self.look((q, k, v), path, seen)


def _causal(count: int) -> Tensor:
    return torch.ones(count, count, dtype=torch.bool).tril()


def _megabyte(w: _Weights, tokens: Tensor) -> Tensor:
    """Whole patches alone go through the global model; the last may be begun."""
    x = w.tensors["embed.weight"][tokens]
    whole = x[:, : x.shape[1] // SIZE * SIZE].unflatten(1, (-1, SIZE)).flatten(2)
    g = w.map(whole, "patch")
    for i in range(2):
        g = g + w.attend(w.norm(g, f"global.{i}.norm"), f"global.{i}.", _causal(g.shape[1]))
    before = F.pad(g, (0, 0, 1, 0)).repeat_interleave(SIZE, 1)[:, : x.shape[1]]
    x = x + w.map(before, "before")
    rows = [w.attend(w.norm(p, "local.norm"), "local.", _causal(p.shape[1])) for p in x.split(SIZE, 1)]
    return w.map(x + torch.cat(rows, 1), "head")


def _retro(w: _Weights, found: Tensor, tokens: Tensor) -> Tensor:
    """From a chunk's last token to the last but one of the next, tokens look at what was found for it."""
    m, x = (w.tensors["embed.weight"][each] for each in (found, tokens))
    m = m + w.attend(w.norm(m, "encoder.norm"), "encoder.", torch.ones(2 * [m.shape[1]], dtype=torch.bool))
    for i in range(2):
        path = f"layers.{i}."
        x = x + w.attend(w.norm(x, f"{path}norm"), path, _causal(x.shape[1]))
        h, rows = w.norm(x, f"{path}cross.norm"), [torch.zeros_like(x[:, : SIZE - 1])]
        for q, part in zip(h[:, SIZE - 1 :].split(SIZE, 1), m.split(FOUND, 1), strict=True):
            k, v = w.map(part, f"{path}cross.kv").unflatten(-1, (HEADS, -1)).chunk(2, -1)
            q = w.map(q, f"{path}cross.q").unflatten(-1, (HEADS, -1))
            rows.append(w.look((q, k, v), f"{path}cross.", torch.ones(q.shape[1], FOUND, dtype=torch.bool)))
        x = x + torch.cat(rows, 1)
    return w.map(x, "head")


def test_patches(tmp_path: Path) -> None:
    model = build(SPEC, "megabyte", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    tokens, cache = torch.randint(50, (2, sum(PIECES))), model.new_cache(2, sum(PIECES))
    with torch.no_grad():
        truth = _megabyte(_Weights(dict(stored_tensors(model))), tokens)
        found = torch.cat([model(piece, cache=cache) for piece in tokens.split(PIECES, 1)], 1)
        assert max(distance(each, truth) for each in (model(tokens), found)) < 1e-13


def test_what_was_found_for_chunks(tmp_path: Path) -> None:
    model = build(SPEC, "retro", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    tokens, cache = torch.randint(50, (2, sum(PIECES))), model.new_cache(2, sum(PIECES))
    found = torch.randint(50, (2, sum(PIECES) // SIZE * FOUND))
    with torch.no_grad():
        truth = _retro(_Weights(dict(stored_tensors(model))), found, tokens)
        pieces = [model(found, piece, cache=cache) for piece in tokens.split(PIECES, 1)]
        assert max(distance(each, truth) for each in (model(found, tokens), torch.cat(pieces, 1))) < 1e-13
