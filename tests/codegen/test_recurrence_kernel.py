"""The kernel of linear recurrences, and their products by chunks, held to the op in float64."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from archc.ir.op import OPS
from archc.verification.packages import import_package
from tests.codegen import hazards
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.codegen.test_recurrence import FORMS, spec
from tests.gpu import is_on
from tests.instruments.counted_step import counted_step
from tests.instruments.planned_step import planned_step
from tests.instruments.traffic import measure
from tests.instruments.work import Count
from tests.support import build, compile_model, distance, few

# heads, kv_heads, dk, dv: a head a program and several, in part outside of its tile; columns in two programs.
SIZES = {
    "some": (4, 2, 6, 10),
    "odd": (5, 5, 3, 1),
    "columns": (2, 1, 40, 120),
    "tiles": (4, 2, 20, 20),
    "few": (2, 1, 20, 20),
    "few keys": (2, 1, 12, 20),
}


@functools.cache
def _package(form: str, size: str) -> Any:
    settings = dict(zip(("heads", "kv_heads", "dk", "dv"), map(str, SIZES[size]), strict=True))
    return build(spec(form), "recurrent", Path(mkdtemp()), settings)


def _operands(form: str, size: str, tokens: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random operands of two sequences, the first with padding on its left."""
    heads, kv_heads, keys, values = SIZES[size]
    scale = keys**-0.5
    shape = (2, tokens, heads)
    text = FORMS[form]
    given = {
        "q": torch.randn(2, tokens, kv_heads, keys) * scale,
        "k": torch.randn(2, tokens, kv_heads, keys) * scale,
        "v": torch.randn(*shape, values),
    }
    given = {name: value.to(dtype) for name, value in given.items()}
    positions = torch.arange(tokens).repeat(2, 1)
    positions[0] = (positions[0] - tokens // 3).clamp(min=-1)
    given["positions"] = positions
    if "log_decay" in text:
        fixed, rows = "parameter" in text, "channels" in text
        of_token = (heads, keys) if rows else (heads,)
        given["log_decay"] = -3 * torch.rand(of_token if fixed else (2, tokens, *of_token))
    if "beta" in text:
        given["beta"] = torch.rand(shape).to(dtype)
    if "erase" in text:
        given["erase"] = -torch.nn.functional.normalize(torch.randn(*shape, keys), dim=-1).to(dtype)
        given["renew"] = -given["erase"] * torch.rand(*shape, 1).to(dtype)
    return given


def _pad_and_forget(given: dict[str, Tensor]) -> None:
    """Padding on the right too, and decays to nothing: of a head, or of a channel of each."""
    given["positions"][1, -3:] = -1
    if "log_decay" in given and given["log_decay"].dim() > 2:
        given["log_decay"][:, 9:60:17, ..., 0] = -torch.inf


def _spoilt(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is padding is no number, as 0 / 0 where a spec divides by a sum of weights.

    To those who look for hazards that is memory that nothing has written.
    """
    if hazards.is_on():
        return given
    padding = given["positions"] < 0

    def spoil(x: Tensor) -> Tensor:
        apart = padding.reshape(*padding.shape, *[1] * (x.dim() - 2))
        return x.masked_fill(apart, torch.nan)

    of_tokens = {name for name, x in given.items() if x.shape[:2] == padding.shape and x.is_floating_point()}
    return {name: spoil(x) if name in of_tokens else x for name, x in given.items()}


def _truth(form: str, given: dict[str, Tensor], size: str, state: Tensor | None = None) -> Tensor:
    """The op itself, in float64."""
    wide = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    scale = SIZES[size][2] ** -0.5 if "scale" in FORMS[form] else 1.0
    reads = "before" if "before" in FORMS[form] else "after"
    result: Tensor = OPS["recur"].reference(**wide, state=state, scale=scale, reads=reads)
    return result


def _compare(kernels: Any, form: str, size: str, dtype: torch.dtype) -> None:
    """Some tokens, then one after them: results, and the state in between."""
    limit = 1e-6 if dtype is torch.float32 else 4e-3
    heads, _, keys, values = SIZES[size]
    state = torch.zeros(2, heads, keys, values)
    exact = state.double()
    for tokens in (5, 1):
        given = _operands(form, size, tokens, dtype)
        with torch.no_grad():
            found = kernels.linear_attention(**given, state=state)
        assert found.dtype is dtype
        assert distance(found, _truth(form, given, size, exact)) < limit
        assert distance(state, exact) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", ["some", "odd", "columns", "tiles"])
@pytest.mark.parametrize("form", few(FORMS, 3))
@interpreted
def test_kernel(form: str, size: str, dtype: torch.dtype) -> None:
    _compare(_package(form, size).kernels, form, size, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("form", "size"),
    [
        *few(
            [
                ("decay", "columns"),
                ("plain", "tiles"),
                ("fixed_decay", "tiles"),
                ("before", "tiles"),
                ("delta", "columns"),
                ("delta", "tiles"),
            ],
            3,
        ),
        *few(
            [
                ("decay_by_channel", "columns"),
                ("fixed_by_channel", "few"),
                ("delta_by_channel", "columns"),
                ("delta_by_channel_before", "few"),
            ],
            2,
        ),
        *few([("erase", "few"), ("erase_before", "few"), ("erase", "columns")], 1),
    ],
)
@interpreted
def test_kernels_by_chunks(form: str, size: str, dtype: torch.dtype) -> None:
    """A prompt in two parts, of chunks, some of them not full; padding on both sides, decays to nothing.

    Padding is no numbers.  At two sizes memory holds the states of a chunk at a time.
    """
    kernels = _package(form, size).kernels
    heads, _, keys, values = SIZES[size]
    if size != "columns":
        held = f"max({2**24 // (heads * keys * values)} // batch, 1)"
        kernels = changed_module(kernels, held, "1")
    state = torch.randn(2, heads, keys, values)
    exact = state.double()
    for tokens in (40, 32) if "channel" in FORMS[form] else (70, 64):
        given = _operands(form, size, tokens, dtype)
        _pad_and_forget(given)
        with torch.no_grad():
            found = kernels.linear_attention(**_spoilt(given), state=state)
        real = given["positions"] >= 0
        truth = _truth(form, given, size, exact)
        assert distance(found[real], truth[real]) < (2e-6 if dtype is torch.float32 else 4e-3)
        assert distance(state, exact) < (1e-6 if dtype is torch.float32 else 1e-5)  # products of 16 bits


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("decay", torch.float32),
        ("decay", torch.bfloat16),
        ("delta", torch.bfloat16),
        ("decay_by_channel", torch.bfloat16),
        ("delta_by_channel_before", torch.float32),
        ("erase", torch.bfloat16),
        *few(
            [
                ("plain", torch.float32),
                ("fixed_decay", torch.float32),
                ("before", torch.float32),
                ("plain_delta", torch.float32),
                ("delta_before", torch.float32),
                ("fixed_by_channel", torch.float32),
                ("delta_by_channel", torch.bfloat16),
                ("erase", torch.float32),
                ("erase_before", torch.float32),
            ],
            1,
        ),
    ],
)
@interpreted
def test_gradients_by_chunks(form: str, dtype: torch.dtype) -> None:
    """Of three chunks, of which memory holds the states of one at a time; padding, decays to nothing.

    In bfloat16 they are as exact as those of PyTorch's products in float32.  That of a decay which all tokens
    share is a sum over them, which may nearly cancel: it is held to the size of its terms.
    """
    size = "few" if dtype is torch.float32 else "few keys"  # which have short chunks whatever the form
    kernels = _package(form, size).kernels
    heads, _, keys, values = SIZES[size]
    held = f"max({2**24 // (heads * keys * values)} // max(batch, 1), int(count**0.5))"
    kernels = changed_module(kernels, held, "1")
    short = size == "few keys" or "beta" in FORMS[form] or "channel" in FORMS[form]
    given = _operands(form, size, 70 if short else 140, dtype)
    _pad_and_forget(given)
    leaves = [x.requires_grad_() for x in given.values() if x.is_floating_point()]
    wide = {name: x.detach().double() if x.is_floating_point() else x for name, x in given.items()}
    if "parameter" in FORMS[form]:
        decay = wide["log_decay"]
        wide["log_decay"] = decay.repeat(*wide["v"].shape[:2], *[1] * decay.dim())
    exact = [x.requires_grad_() for x in wide.values() if x.is_floating_point()]
    o = kernels.linear_attention(**given, state=None)
    change = torch.randn_like(o)
    truths = torch.autograd.grad(_truth(form, wide, size), exact, change.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_runs_triton", lambda _: False)
        plain = torch.autograd.grad(kernels.linear_attention(**given, state=None), leaves, change)
    for found, unfused, terms in zip(torch.autograd.grad(o, leaves, change), plain, truths, strict=True):
        assert found.dtype is unfused.dtype
        truth, terms = terms.sum_to_size(found.shape), terms.abs().sum_to_size(found.shape)
        few_bits = 5e-7 if dtype is torch.float32 else 1e-5  # products of 16 bits
        limit = few_bits * float(terms.norm() / truth.norm())
        assert distance(found, truth) < max(limit, 1.02 * distance(unfused, truth))


@pytest.mark.parametrize(("form", "chunk"), [("decay", 64), ("delta", 32)])
@pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts bytes")
@interpreted
def test_bytes_of_a_chunk(form: str, chunk: int) -> None:
    """Memory serves operands to each kernel, and to each program that has 16 of a state's columns."""
    kernels = _package(form, "tiles").kernels
    heads, _, keys, values = SIZES["tiles"]
    given = {name: x[1:] for name, x in _operands(form, "tiles", chunk, torch.bfloat16).items()}
    state = torch.zeros(1, heads, keys, values)
    with torch.no_grad():
        traffic = measure(lambda: kernels._linear_attention.launch(*given.values(), state))
    shares = -(-values // 16)
    gates = 8 + 4 + 2 * (form == "delta")  # position, log_decay, beta
    a_token = shares * (2 * keys + gates) + 2 * values + 2 * 2 * keys + 8 + 4 + 2 * 2 * values
    states = (2 + 2) * 4 * keys * values  # of a chunk to memory and back; of the sequence back and forth
    if form == "delta":  # a token's key, gates, row of the inverse, and what it stores in place of its value
        a_token += 2 * keys + gates + 4 * chunk * (1 + shares) + (2 * 4 - 2) * values
    moved = sum(entry.first for entry in traffic.moved.values())
    assert moved == pytest.approx(heads * (chunk * a_token + states), rel=0.01)


@pytest.mark.parametrize("form", ["decay_by_channel", "erase"])
@pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts bytes")
@interpreted
def test_bytes_of_a_chunk_by_channel(form: str) -> None:
    """A head's queries, keys and decays are read for products with states, and again for pairs of tokens."""
    kernels = _package(form, "few").kernels
    heads, _, keys, values = SIZES["few"]
    chunk, shares = 32, -(-values // 16)
    given = {name: x[1:] for name, x in _operands(form, "few", chunk, torch.bfloat16).items()}
    state = torch.zeros(1, heads, keys, values)
    with torch.no_grad():
        traffic = measure(lambda: kernels._linear_attention.launch(*given.values(), state))
    operands = 2 * 2 * keys + 4 * keys + 8  # query, key, log_decay, position
    between = 2 * 4 * keys + 4 * chunk  # of float32: the first two with decays, and weights of tokens
    adds = shares * (4 * keys + 8) + 2 * values
    results = 4 * keys + 4 * chunk + 8 + 2 * 2 * values
    states = (2 + 2) * 4 * keys * values + (1 + shares) * 4 * keys  # with what decays leave of them
    if form == "erase":  # two more vectors, three more weights of tokens, and what a token finds
        operands += 2 * 2 * keys
        between += 2 * 4 * keys + 3 * 4 * chunk
        adds += shares * (2 * 4 * keys + 2 * 4 * chunk) + 4 * values
        results += 4 * chunk + 4 * values
    moved = sum(entry.first for entry in traffic.moved.values())
    a_token = 2 * operands + between + adds + results
    assert moved == pytest.approx(heads * (chunk * a_token + states), rel=0.01)


@interpreted
def test_a_key_that_comes_again_and_again() -> None:
    """Each token replaces what the one before it stored; powers of what they share would be huge."""
    kernels = _package("delta", "tiles").kernels
    heads, _, keys, values = SIZES["tiles"]
    given = _operands("delta", "tiles", 40, torch.float32)
    given["k"][:] = keys**-0.5
    given["beta"][:] = 1.0
    given["log_decay"][:] = 0.0
    state = torch.zeros(2, heads, keys, values)
    exact = state.double()
    with torch.no_grad():
        found = kernels.linear_attention(**given, state=state)
    assert distance(found, _truth("delta", given, "tiles", exact)) < 1e-6
    assert distance(state, exact) < 1e-6


@interpreted
def test_kernel_reads_heads_where_they_lie() -> None:
    """Queries, keys and values as parts of one tensor's rows."""
    kernels = _package("delta", "some").kernels
    heads, kv_heads, keys, values = SIZES["some"]
    given = _operands("delta", "some", 4, torch.float32)
    widths = (kv_heads * keys, kv_heads * keys, heads * values)
    q, k, v = torch.cat([given[name].flatten(2) for name in "qkv"], -1).split(widths, -1)
    apart = {
        "q": q.unflatten(2, (kv_heads, -1)),
        "k": k.unflatten(2, (kv_heads, -1)),
        "v": v.unflatten(2, (heads, -1)),
    }
    state = torch.zeros(2, heads, keys, values)
    found = kernels.linear_attention(**{**given, **apart}, state=state)
    assert distance(found, _truth("delta", given, "some")) < 1e-6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (">= 0", ">= -1"),
        ("s = s * tl.exp(log_decay)[:, :, None]", "s = s"),
        ("head // 2", "head % 2"),
        ("k * s", "k * before"),
        ("tl.store(state_ptr, s", "tl.store(state_ptr, s * 0.5"),
        ("token * 4 + head", "t * 4 + head"),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(old: str, new: str) -> None:
    changed = changed_module(_package("delta", "some").kernels, old, new)
    with pytest.raises(AssertionError):
        _compare(changed, "delta", "some", torch.float32)


@pytest.mark.parametrize("size", ["some", "odd"])
@pytest.mark.parametrize("form", FORMS)
def test_chunks_and_their_gradients(form: str, size: str) -> None:
    """Over the ends of chunks, with a last one that is not full, in float64 and in float32."""
    kernels = _package(form, size).kernels
    torch.manual_seed(0)
    given = _operands(form, size, 70, torch.float32)
    _pad_and_forget(given)
    heads, _, keys, values = SIZES[size]
    state = torch.randn(2, heads, keys, values, dtype=torch.float64)
    exact = state.clone()
    wide = {name: x.double().requires_grad_() if x.is_floating_point() else x for name, x in given.items()}
    leaves = [x for x in wide.values() if x.requires_grad]
    for start in (state, None):  # after a cache, and in training
        first, second = (None if start is None else start.clone() for _ in range(2))
        found, truth = kernels.linear_attention(**wide, state=first), _truth(form, wide, size, second)
        assert distance(found, truth) < 1e-12
        change = torch.randn_like(truth)
        gradients = zip(*(torch.autograd.grad(y, leaves, change) for y in (found, truth)), strict=True)
        assert all(distance(one, other) < 1e-11 for one, other in gradients)
    with torch.no_grad():
        kernels.linear_attention(**wide, state=state)
        _truth(form, wide, size, exact)
        assert distance(state, exact) < 1e-12
        rounded = kernels.linear_attention(**_spoilt(given), state=None)
        real = given["positions"] >= 0
        assert distance(rounded[real], _truth(form, given, size)[real]) < 2e-6


@pytest.mark.parametrize("form", FORMS)
def test_some_chunks_after_others(form: str) -> None:
    """A prompt takes what some chunks do, however many there are, and gives what all at once do."""
    kernels = _package(form, "some").kernels
    kernels = changed_module(kernels, "// max(len(v), 1)", "// 2**40")  # one at a time
    given = _operands(form, "some", 600, torch.float64)
    _pad_and_forget(given)
    state = torch.randn(2, *SIZES["some"][:1], *SIZES["some"][2:], dtype=torch.float64)
    for start in (state, None):
        states = [None if start is None else start.clone() for _ in range(2)]
        with _Largest() as largest:
            found = kernels.linear_attention(**given, state=states[0])
        with _Largest() as at_once:
            truth = kernels._linear_attention_chunks(*given.values(), states[1])
        assert distance(found, truth) < 1e-12
        assert start is None or distance(*states) < 1e-12
        assert largest.elements < at_once.elements / 4


class _Largest(TorchDispatchMode):
    """How many elements the largest tensor has that PyTorch makes; views are not made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("form", ["decay", "delta_by_channel", "erase"])
def test_bytes_of_a_gradient_grow_with_tokens_alone(form: str) -> None:
    """Not with their square, as where the gradient of each chunk's slice is as large as all chunks."""
    kernels = _package(form, "some").kernels
    moved = []
    for tokens in (256, 1024):
        given = _operands(form, "some", tokens, torch.float32)
        leaves = [x.requires_grad_() for x in given.values() if x.is_floating_point()]
        with Count() as count:
            torch.autograd.grad(kernels.linear_attention(**given, state=None).sum(), leaves)
        moved.append(count.work.bytes)
    assert moved[1] < 4.1 * moved[0]


@pytest.mark.parametrize("form", ["delta", "erase"])
def test_a_step_launches_and_moves_what_the_plan_says(form: str, tmp_path: Path) -> None:
    compilation = compile_model(spec(form), "recurrent", {"dk": "64", "dv": "128"})
    plan = planned_step(compilation.fused, batch=2, context=300)
    step = counted_step(import_package(compilation, tmp_path), batch=2, context=300)
    assert (step.count, step.launches["linear_attention"]) == (plan.count, plan.launches["recur"])
    assert step.bytes == pytest.approx(plan.bytes, rel=0.05)
