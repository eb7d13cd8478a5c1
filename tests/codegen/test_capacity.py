"""What experts can take of a sequence: the op, its kernels and caches, held to counting one by one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archc.ir.op import OPS
from archc.verification.packages import stored_tensors
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, distance, few, scramble

both = pytest.mark.parametrize("kind", ["Model", "Reference"])
EXPERTS = 5
EXACT = 1e-11

CROWDED = """
    arch Crowded(d = 12, experts = 4, choices = 2, capacity = 3) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 4, d) as embed
        for i in 0..2 as layers {
          scores = softmax(upcast(linear(x, experts) as gate))
          weights, chosen = top_k(scores, choices)
          weights = cast_like(within_capacity(weights, chosen, experts, capacity), x)
          y = experts e in chosen of experts as experts {
            return weights[e] * linear(x, d) as up
          }
          x = x + y
        }
        return linear(x, 4) as head
      }
    }
    model crowded = Crowded()
"""


def kept_by_hand(chosen: Tensor, real: Tensor, capacity: int) -> Tensor:
    """Whether a token's choice is among the first of its expert's, one token after the other."""
    kept = torch.zeros(chosen.shape, dtype=torch.bool)
    for b, row in enumerate(chosen.tolist()):
        counts = dict.fromkeys(range(EXPERTS), 0)
        for t, choices in enumerate(row):
            for c, expert in enumerate(choices):
                kept[b, t, c] = counts[expert] < capacity
                counts[expert] += bool(real[b, t])
    return kept


@pytest.mark.parametrize(
    ("chosen", "capacity"),
    [
        ([[[0], [0], [0], [0], [0]]], 2),  # one expert is to take every token, others none
        ([[[0], [0], [0], [1], [0]]], 4),  # the capacity is reached, and no token is one too many
        ([[[4]]], 1),
        ([[[0, 1], [1, 0], [0, 2], [1, 2], [0, 1]], [[3, 4], [4, 3], [3, 4], [4, 3], [3, 4]]], 2),
    ],
)
def test_capacity_in_whole_and_in_pieces(chosen: list[Any], capacity: int) -> None:
    choices = torch.tensor(chosen)
    weights = torch.rand(choices.shape, dtype=torch.float64)
    within = functools.partial(OPS["within"].reference, count=EXPERTS, capacity=capacity)
    length = choices.shape[1]
    for pad in (0, 1) if length > 1 else (0,):
        real = torch.arange(length).expand(choices.shape[:2]) >= pad
        positions, keys = places(real)
        whole = within(weights, choices, choices, positions, keys)
        assert torch.equal(whole[real], (weights * kept_by_hand(choices, real, capacity))[real])
        for end in range(pad + 1, length + 1):  # the last token alone, after those in a cache
            last = slice(end - 1, end)
            given = weights[:, last], choices[:, last], choices[:, :end], positions[:, last], keys[:, :end]
            assert torch.equal(within(*given), whole[:, last])


def places(real: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of tokens, and those of keys, -1 for padding: [B, T] each."""
    positions = (real.cumsum(1) - 1).clamp(min=0)
    return positions, positions.masked_fill(~real, -1)


@both
def test_tokens_over_capacity_pass_the_experts_by(tmp_path: Path, kind: str) -> None:
    """Through a cache as in whole; what an expert cannot take adds nothing."""
    package = build(CROWDED, "crowded", tmp_path)
    model = getattr(package, kind)(dtype=torch.float64)
    scramble(model)
    given = torch.zeros(2, 7, dtype=torch.int64)  # all tokens want the same two experts
    logits = model(given)
    cache = model.new_cache(2, 7)
    parts = [model(piece, cache=cache) for piece in given.split((2, 1, 1, 3), 1)]
    assert distance(torch.cat(parts, 1), logits) < EXACT
    assert distance(logits[:, :3], logits[:, :1].expand(-1, 3, -1)) < EXACT
    tensors = dict(stored_tensors(model))
    passed_by = tensors["embed.weight"][0] @ tensors["head.weight"].T
    assert distance(logits[:, 3:], passed_by.expand(2, 4, -1)) < EXACT


def test_thousands_of_tokens(tmp_path: Path) -> None:
    """As many as PyTorch sorts by expert, and the whole as one expert after the other."""
    package = build(CROWDED.replace("capacity = 3", "capacity = 4000"), "crowded", tmp_path)
    tokens = torch.randint(0, 4, (1, 9000), generator=torch.Generator().manual_seed(0))
    logits = []
    for kind in (package.Model, package.Reference):
        model = kind(dtype=torch.float64)
        scramble(model)
        with torch.no_grad():
            logits.append(model(tokens))
    assert distance(*logits) < EXACT


# Batch, tokens, choices, capacity: within one tile and over the edges of several.
SIZES = {
    "a few": (2, 7, 2, 2),
    "tiles": (2, 200, 1, 9),
    "many": (1, 700, 2, 100),
    "roomy": (2, 40, 2, 100),
    "one": (3, 1, 1, 1),
    "none": (1, 0, 2, 2),
}
PADDING: dict[str, Callable[[int], int]] = {
    "no": lambda _: 0,
    "left": lambda n: n // 3,
    "right": lambda n: -(n // 3),
}


@functools.cache
def _crowded(folder: Path) -> ModuleType:
    return build(CROWDED, "crowded", folder)


def _real(batch: int, tokens: int, pad: int) -> Tensor:
    """The first sequence is padded on the left, or by a negative number on the right."""
    real = torch.ones(batch, tokens, dtype=torch.bool)
    real[0, : max(pad, 0)] = real[0, tokens + min(pad, 0) :] = False
    return real


def _choices(batch: int, tokens: int, choices: int) -> Tensor:
    """Each token's choices are different; the first experts are chosen more often."""
    likely = torch.rand(batch, tokens, EXPERTS) * torch.linspace(1, 0.3, EXPERTS)
    return likely.topk(choices, -1).indices


def _compare_within(kernels: Any, size: str, padding: str, dtype: torch.dtype = torch.float32) -> None:
    batch, tokens, choices, capacity = SIZES[size]
    chosen = _choices(batch, tokens, choices)
    weights = torch.rand(chosen.shape).to(dtype).requires_grad_()
    real = _real(batch, tokens, PADDING[padding](tokens))
    y, kept = kernels._within_capacity(weights, chosen, chosen, *places(real), capacity)
    truth = kept_by_hand(chosen, real, capacity)
    assert torch.equal(kept[real], truth[real])
    assert torch.equal(y[real], (weights * truth)[real])
    if y.numel():
        dy = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, weights, dy)
        assert torch.equal(found[real], (dy * truth)[real])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("size", few(SIZES, 2))
@interpreted
def test_kept_weights_and_gradients(size: str, padding: str, dtype: torch.dtype, tmp_path: Path) -> None:
    _compare_within(_crowded(tmp_path.parent).kernels, size, padding, dtype)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kept = (earlier < CAPACITY)", "kept = (earlier <= CAPACITY)"),
        ("key_position < 0", "key_position < -1"),
        ("key_position[None, :] < position", "key_position[None, :] <= position"),
        ("range(0, end, KEYS)", "range(0, KEYS, KEYS)"),
        ("end * CHOICES)", "end)"),
        ("(tl.program_id(1) + 1) * ROWS", "tl.program_id(1) * ROWS"),
        ("return dy * kept", "return dy"),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(old: str, new: str, tmp_path: Path) -> None:
    changed = changed_module(_crowded(tmp_path.parent).kernels, old, new)
    wrong = 0
    for size in ("a few", "tiles"):
        for padding in PADDING:
            try:
                _compare_within(changed, size, padding)
            except AssertionError:
                wrong += 1
    assert wrong


@pytest.mark.parametrize("padding", ["no", "left"])
@interpreted
def test_steps_after_a_cache(padding: str, tmp_path: Path) -> None:
    """A prompt, then token by token with fixed shapes: what the kernels read and write lies in the cache."""
    package = _crowded(tmp_path.parent)
    model, reference = package.Model(dtype=torch.float32), package.Reference(dtype=torch.float64)
    for each in (model, reference):
        scramble(each)
    tokens = torch.randint(0, 4, (2, 12))
    real = _real(2, 12, PADDING[padding](6))
    given = {"padding": real} if padding != "no" else {}
    truth = reference(tokens, **given)
    cache = model.new_cache(2, 12)
    prompt = {"padding": real[:, :6]} if given else {}
    parts = [model(tokens[:, :6], cache=cache, **prompt)]
    cache.start_steps()
    parts += [model(tokens[:, n : n + 1], cache=cache) for n in range(6, 12)]
    assert distance(torch.cat(parts, 1)[real], truth[real]) < 1e-5


@functools.cache
def _glam(folder: Path) -> ModuleType:
    return build(SPECS / "glam.arch", "glam_tiny", folder)


def _shared_by_hand(weights: Tensor, chosen: Tensor, real: Tensor, count: int, factor: float) -> Tensor:
    """The weights that are kept: of each sequence all first choices are placed, then all second ones."""
    kept = torch.zeros_like(weights)
    batch, tokens, choices = chosen.shape
    for b in range(batch):
        share = math.ceil(Fraction(int(real[b].sum()) * choices, count) * Fraction(factor))
        room = dict.fromkeys(range(count), share)
        for c in range(choices):
            for t in range(tokens):
                expert = int(chosen[b, t, c])
                kept[b, t, c] = weights[b, t, c] if room[expert] > 0 else 0.0
                room[expert] -= bool(real[b, t]) and bool(weights[b, t, c] != 0)
    return kept


def test_training_drops_what_experts_cannot_take(tmp_path: Path) -> None:
    """Of each sequence an expert takes its share, all first choices before all second ones (GShard)."""
    losses = build(SPECS / "glam.arch", "glam_tiny", tmp_path).losses
    chosen = torch.tensor([[[0, 1], [0, 1], [1, 0], [2, 0], [0, 1], [0, 3]]])
    weights = torch.ones(1, 6, 2, dtype=torch.float64)
    positions = torch.tensor([[-1, 0, 1, 2, 3, 4]])  # the first token is padding: five have ten choices
    kept = losses.drop(weights, chosen, positions, 4, 1.0, losses.Losses(training=True))
    # ceil(10 / 4) = 3 for each.  Of 0's first choices three are taken, and no second one; of 1's one and two.
    assert kept[0, 1:].tolist() == [[1, 1], [1, 0], [1, 0], [1, 1], [1, 1]]
    for idle in (None, losses.Losses(training=False)):
        assert torch.equal(losses.drop(weights, chosen, positions, 4, 1.0, idle), weights)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("size", SIZES)
@interpreted
def test_shares_of_a_sequence(size: str, padding: str, tmp_path: Path) -> None:
    """By the kernel and by PyTorch's ops; a choice without weight takes no place."""
    losses = _glam(tmp_path.parent).losses
    batch, tokens, choices, _ = SIZES[size]
    chosen = _choices(batch, tokens, choices)
    weights = F.dropout(torch.rand(chosen.shape), 0.3).requires_grad_()
    real = _real(batch, tokens, PADDING[padding](tokens))
    given = weights, chosen, places(real)[1], EXPERTS, 0.75, losses.Losses(training=True)
    truth = _shared_by_hand(weights.detach(), chosen, real, EXPERTS, 0.75)
    for drop in (losses.drop, losses.drop_crowded):
        y = drop(*given)
        assert torch.equal(y[real], truth[real])
        if y.numel():
            dy = torch.randn_like(y)
            (found,) = torch.autograd.grad(y, weights, dy)
            clear = real[..., None] & (weights != 0)
            assert torch.equal(found[clear], (dy * (truth != 0))[clear])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("key % CHOICES * tokens", "0"),
        ("key_turn[None, :] < turn", "key_turn[None, :] <= turn"),
        (" != 0)", " >= 0)"),
        ("tl.sum(real, 0).to(tl.float64)", "tokens"),
    ],
)
@interpreted
def test_a_wrong_share_is_found(old: str, new: str, tmp_path: Path) -> None:
    losses = _glam(tmp_path.parent).losses
    changed = changed_module(_glam(tmp_path.parent).kernels, old, new)
    chosen = _choices(2, 200, 2)
    weights = F.dropout(torch.rand(chosen.shape), 0.3)
    keys = places(_real(2, 200, 60))[1]
    truth = losses.drop(weights, chosen, keys, EXPERTS, 0.75, losses.Losses(training=True))
    assert not torch.equal(changed.drop_crowded(weights, chosen, keys, 0.75 / EXPERTS)[0], truth)


@pytest.mark.parametrize("paper", [True, False])
def test_second_experts_by_chance(paper: bool, tmp_path: Path) -> None:
    """GShard's loop, with the same random numbers; what is not sent takes a place in its paper alone."""
    losses = build(SPECS / "glam.arch", "glam_tiny", tmp_path).losses
    training, chosen = losses.Losses(training=True), _choices(3, 50, 2)
    weights = torch.rand(chosen.shape, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    keys, real = places(_real(3, 50, 5))[1], _real(3, 50, 5)
    torch.manual_seed(1)
    if paper:
        found = losses.drop(weights, chosen, keys, EXPERTS, 0.8, training)
        found = losses.sampled(found, 1, 2.0, training)
    else:
        found = losses.sampled(weights, 1, 2.0, training)
        found = losses.drop(found, chosen, keys, EXPERTS, 0.8, training)
    torch.manual_seed(1)
    numbers = torch.rand(3, 50, 1, dtype=torch.float64)
    assert torch.equal(found[real], _gshard(weights, chosen, numbers, real, 0.8, paper)[real])
    assert 0 < (found[..., 1] == 0).float().mean() < 1
    assert torch.equal(losses.sampled(weights, 1, 2.0, None), weights)


def _gshard(
    weights: Tensor, chosen: Tensor, numbers: Tensor, real: Tensor, factor: float, paper: bool
) -> Tensor:
    """Algorithm 1 of GShard, without its loss."""
    kept = torch.zeros_like(weights)
    for b in range(len(weights)):
        tokens = real[b].nonzero().flatten().tolist()
        capacity = math.ceil(Fraction(2 * len(tokens), EXPERTS) * Fraction(str(factor)))
        counts = dict.fromkeys(range(EXPERTS), 0)
        for choice in (0, 1):
            for t in tokens:
                expert, weight = int(chosen[b, t, choice]), weights[b, t, choice]
                sent = choice == 0 or bool(numbers[b, t, 0] < 2 * weight)
                if sent and counts[expert] < capacity:
                    kept[b, t, choice] = weight
                counts[expert] += sent or paper
    return kept


TRAINED = pytest.mark.parametrize("spec", few(["glam", "switch"], 1))


@TRAINED
def test_training_is_the_same_fused(spec: str, tmp_path: Path) -> None:
    """With the same random numbers, for all that is dropped, chosen by chance or noisy."""
    _compare_training(spec, tmp_path, torch.float64, EXACT)


@TRAINED
@interpreted
def test_training_is_the_same_by_kernels(spec: str, tmp_path: Path) -> None:
    _compare_training(spec, tmp_path, torch.float32, 1e-4)


def _compare_training(spec: str, folder: Path, dtype: torch.dtype, bound: float) -> None:
    package = build(SPECS / f"{spec}.arch", f"{spec}_tiny", folder)
    tokens = torch.randint(0, 160, (2, 12), generator=torch.Generator().manual_seed(0))
    given = (tokens,) if spec == "glam" else (tokens, tokens[:, :8])
    results = []
    for kind in (package.Model, package.Reference):
        model = kind(dtype=dtype)
        scramble(model)
        torch.manual_seed(0)
        loss = model.loss(*given, given[-1])
        loss.backward()
        gradients = [gradient.flatten() for _, gradient in sorted(stored_tensors(model, gradients=True))]
        results.append((loss, torch.cat(gradients)))
    for ours, theirs in zip(*results, strict=True):
        assert distance(ours, theirs) < bound
