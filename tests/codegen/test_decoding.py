"""Decoding in steps of fixed shapes, as on a GPU: the same tokens, and nothing that waits for the device."""

from __future__ import annotations

import functools
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.ops.attention import Causal, Chunked, Full, Mask, Sliding, attend
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, distance, few, scramble

TINY = {
    "gpt2_tiny": "gpt2",
    "latent_tiny": "latent",
    "llama3_tiny": "llama3",
    "mistral_tiny": "mistral",  # a window of 5
    "olmo2_tiny": "olmo2",
    "palm_tiny": "palm",
    "bloom_tiny": "bloom",  # slopes; a head's query, key and value side by side
    "gemma2_tiny": "gemma2",  # scores under a soft cap
    "llama4_tiny": "llama4",  # chunks of 6
}
SEEDS = {"bloom_tiny": 1}  # of weights that give more than a token or two
INTERPRETED = (
    "llama3_tiny",
    "mistral_tiny",
    "bloom_tiny",
)  # those that Triton interprets in the default suite
PADDING = torch.ones(3, 7, dtype=torch.bool)
PADDING[1, :3] = PADDING[2, 5:] = False
both = pytest.mark.parametrize("kind", ["Model", "Reference"])
every = pytest.mark.parametrize("model", TINY)


@functools.cache
def _package(model: str, folder: Path) -> Any:
    return build(SPECS / f"{TINY[model]}.arch", model, folder)


def _model(model: str, kind: str, folder: Path, dtype: torch.dtype = torch.float64) -> Any:
    made = getattr(_package(model, folder), kind)(dtype=dtype)
    scramble(made, SEEDS.get(model, 0), spread=0.4)
    return made


def _module(model: Any, name: str) -> Any:
    return sys.modules[type(model).__module__.rpartition(".")[0] + f".{name}"]


def _tokens() -> Tensor:
    return torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(0))


def _in_steps(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    """What `generate` gives when its shapes are fixed."""
    decoder = _module(model, "decoding").Decoder
    run = decoder.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "run", lambda self, **_: run(self, True))
        found: Tensor = model.generate(tokens, **options)
    return found


@both
@every
@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
def test_steps_give_the_same_tokens(model: str, kind: str, padding: Tensor | None, tmp_path: Path) -> None:
    made = _model(model, kind, tmp_path)
    expected = made.generate(_tokens(), 20, padding=padding)
    assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=20, padding=padding), expected)
    assert len(expected[:, 7:].unique()) > 3


@pytest.mark.parametrize(
    "model", [m if m in INTERPRETED else pytest.param(m, marks=pytest.mark.slow) for m in TINY]
)
@pytest.mark.parametrize(("padded", "shares"), few([(False, 1), (True, 4)], 1))
@interpreted
def test_steps_of_kernels_give_the_same_tokens(model: str, padded: bool, shares: int, tmp_path: Path) -> None:
    """Also with keys that several programs share among them."""
    made = _model(model, "Model", tmp_path, torch.float32)
    kernels = _module(made, "kernels")
    assert any(name.startswith("_") and name.endswith("_step") for name in vars(kernels))
    padding = PADDING if padded else None
    kernels._shares = lambda *_: shares
    expected = made.generate(_tokens(), 4, padding=padding)
    assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=4, padding=padding), expected)


@interpreted
def test_a_step_of_no_sequence(tmp_path: Path) -> None:
    made = _model("llama3_tiny", "Model", tmp_path, torch.float32)
    cache, none = made.new_cache(0, 8), _tokens()[:0]
    made(none[:, :4], cache=cache)
    cache.start_steps()
    assert made(none[:, :1], cache=cache).shape == (0, 1, 160)


def test_positions_lie_side_by_side(tmp_path: Path) -> None:
    """As kernels read them, also where those of padding's bits do not."""
    made = _model("llama3_tiny", "Model", tmp_path)
    apart = PADDING.mT.contiguous().mT
    for cache in (None, made.new_cache(*apart.shape)):
        span = _module(made, "runtime").spans(_tokens(), apart, cache)
        assert span.positions.is_contiguous()
        assert span.key_positions.is_contiguous()


@both
def test_sampled_tokens_are_the_same_in_steps(kind: str, tmp_path: Path) -> None:
    made = _model("llama3_tiny", kind, tmp_path)
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 0.9, "seed": 3, "max_new_tokens": 12}
    assert torch.equal(_in_steps(made, _tokens(), **options), made.generate(_tokens(), **options))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_sequences_end_at_the_same_place_in_steps(count: int, tmp_path: Path) -> None:
    """Steps look only now and then at whether all have ended."""
    made = _model("llama3_tiny", "Model", tmp_path)
    free = made.generate(_tokens(), 40)
    for ends in ([int(free[0, 9]), int(free[1, 10]), int(free[2, 8])], [int(free[0, 7])], 159):
        expected = made.generate(_tokens(), count, eos=ends)
        assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=count, eos=ends), expected)


def test_steps_take_one_token_and_no_padding(tmp_path: Path) -> None:
    made = _model("llama3_tiny", "Model", tmp_path)
    cache = made.new_cache(3, 20)
    made(_tokens(), cache=cache)
    cache.start_steps()
    for tokens, padding in ((_tokens(), None), (_tokens()[:, :1], PADDING[:, :1])):
        with pytest.raises(ValueError, match="takes one token"):
            made(tokens, cache=cache, padding=padding)


@both
def test_frequencies_are_computed_once_for_a_cache(kind: str, tmp_path: Path) -> None:
    """They follow from no token; without a cache every call computes them."""
    made = _model("llama3_tiny", kind, tmp_path)
    module = sys.modules[type(made).__module__]
    compute, calls = module.rope_frequencies, []

    def count(positions: Tensor) -> Any:
        calls.append(positions)
        return compute(positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "rope_frequencies", count)
        _in_steps(made, _tokens(), max_new_tokens=4)
        assert len(calls) == 1
        made(_tokens())
        made(_tokens())
        assert len(calls) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA graph can be captured here")
def test_where_no_graph_can_be_captured_there_is_one_notice(tmp_path: Path) -> None:
    """The tokens are the same: what the attempt changed is taken back."""
    made = _model("llama3_tiny", "Model", tmp_path)
    module = _module(made, "decoding")
    expected = made.generate(_tokens(), 20)
    capture, notices = module.Decoder.capture, []

    def step(self: Any) -> None:
        if self.count > 1 and int(self.place) == 2 and not notices:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert capture(self) == self.step
            notices.extend(caught)
        self._keep(self.sampler(self.model(self.token)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Decoder, "step", step)
        assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=20), expected)
    assert ["without a CUDA graph" in str(notice.message) for notice in notices] == [True]


# query heads, key heads, their width, the values' width
SHAPES = [(4, 4, 16, 16), (6, 2, 12, 20), (8, 1, 64, 64), (5, 1, 80, 16)]


MASKS = {"causal": Causal(), "sliding(7)": Sliding(7), "chunked(7)": Chunked(7)}


def _spec(
    heads: int, kv_heads: int, head_dim: int, value_dim: int, mask: str = "causal", scores: str = ""
) -> str:
    """A model of one attention that keeps its keys and values."""
    mask += f", {scores}" if scores else ""
    return f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        q = split_heads(linear(x, {heads * head_dim}) as q_proj, {heads})
        k = split_heads(silu(linear(x, {kv_heads * head_dim}) as k_proj), {kv_heads})
        v = split_heads(silu(linear(x, {kv_heads * value_dim}) as v_proj), {kv_heads})
        o = merge_heads(attention(q, k, v, mask = {mask}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", few([(shape,) for shape in SHAPES], 2), ids=str)
@interpreted
def test_attention_of_a_step(shape: tuple[int, int, int, int], mask: str, tmp_path: Path) -> None:
    """Every length, share and kind of padding; the new token is stored."""
    kernels = sys.modules[build(_spec(*shape, mask), "a", tmp_path).Model.__module__].kernels
    for filled, shares, padded in itertools.product((0, 1, 33), (1, 4), (False, True)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = _new_token(*shape)
        keys, values = (torch.full((2, 40, *x.shape[2:]), float("nan")) for x in (k, v))
        for store in (keys, values):
            store[:, :filled].normal_()
        positions, places = _places(filled, padded)
        state = (torch.tensor([filled]), *([] if mask == "causal" else [positions]), places)
        o = kernels._attention_step(q, k, v, keys, values, *state, padded)
        assert torch.equal(keys[:, filled : filled + 1], k)
        assert torch.equal(values[:, filled : filled + 1], v)
        assert keys[:, filled + 1 :].isnan().all()
        truth = _attention(
            q, keys[:, : filled + 1], values[:, : filled + 1], positions, places[:, : filled + 1], MASKS[mask]
        )
        assert distance(o, truth) < 3e-6, (filled, shares, padded)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("length", [7, 9])
@pytest.mark.parametrize("mask", few(["sliding(7)", "chunked(7)"], 1))
@interpreted
def test_a_step_in_a_ring(shape: tuple[int, int, int, int], length: int, mask: str, tmp_path: Path) -> None:
    """Each sequence has places of its own, at positions modulo the ring's length: the window's, or longer."""
    kernels = sys.modules[build(_spec(*shape, mask), "a", tmp_path).Model.__module__].kernels
    for before, shares in itertools.product(((0, 3), (6, 7), (8, 33)), (1, 2)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = _new_token(*shape)
        positions = torch.tensor(before)[:, None]
        keys, values = (torch.full((2, length, *x.shape[2:]), float("nan")) for x in (k, v))
        for row, count in enumerate(before):
            for store in (keys, values):
                store[row, : min(count, length)].normal_()
        state = (torch.tensor([35]), positions, torch.full((2, 40), -1))
        o = kernels._attention_step(q, k, v, keys, values, *state, True)
        held = (positions - (positions - torch.arange(length)) % length).clamp(min=-1)
        assert torch.equal(keys[torch.arange(2), positions[:, 0] % length], k[:, 0])
        assert torch.equal(values.isnan().flatten(2).all(-1), held < 0)
        truth = _attention(q, keys.nan_to_num(), values.nan_to_num(), positions, held, MASKS[mask])
        assert distance(o, truth) < 3e-6, (before, shares)


@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
@interpreted
def test_a_step_with_a_softcap_and_sinks(
    shape: tuple[int, int, int, int], sinks: bool, softcap: float | None, tmp_path: Path
) -> None:
    """A sink is counted once, however many programs share the keys."""
    heads = shape[0]
    scores = f"softcap = {softcap}" if softcap else "softcap = none"
    scores += f", sinks = parameter([{heads}]) as sinks" if sinks else ""
    kernels = sys.modules[build(_spec(*shape, "sliding(7)", scores), "a", tmp_path).Model.__module__].kernels
    for filled, shares in itertools.product((0, 33), (1, 4)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = _new_token(*shape)
        q = 3 * q  # scores that the cap bends
        keys, values = (torch.randn(2, 40, *x.shape[2:]) for x in (k, v))
        positions, places = _places(filled, True)
        sink = [2 * torch.randn(heads)] if sinks else []
        state = (torch.tensor([filled]), positions, places)
        o = kernels._attention_step(q, k, v, keys, values, *state, True, *sink)
        known = (keys[:, : filled + 1], values[:, : filled + 1])
        given = {"sinks": sink[0].double() if sinks else None, "softcap": softcap}
        truth = _attention(q, *known, positions, places[:, : filled + 1], Sliding(7), **given)
        assert distance(o, truth) < 3e-6, (filled, shares)


# query heads, values of the latent, of the rotary key beside it
LATENTS = [(6, 20, 5), (40, 16, 16), (64, 512, 64)]


def _latent_spec(heads: int, rank: int, rotary: int, window: int) -> str:
    """A model of one attention over a latent: its keys and values are as many for each head."""
    mask = f"sliding({window})" if window else "causal"
    return f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        c = silu(linear(x, {rank}) as kv_down)
        k_pe = silu(split_heads(linear(x, {rotary}) as k_proj, 1))
        k, v = split(split_heads(linear(c, {2 * rank * heads}) as kv_up, {heads}), 2)
        q = split_heads(linear(x, {heads * (rank + rotary)}) as q_proj, {heads})
        k = concat(k, expand_heads(k_pe, {heads}))
        o = merge_heads(attention(q, k, v, mask = {mask}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """


@pytest.mark.parametrize("window", few([0, 7], 1))
@pytest.mark.parametrize("sizes", LATENTS, ids=str)
@interpreted
def test_latent_attention_of_a_step(sizes: tuple[int, int, int], window: int, tmp_path: Path) -> None:
    """The first columns of what is kept are its values, for all query heads: up to 32 in a program."""
    heads, rank, rotary = sizes
    kernels = sys.modules[build(_latent_spec(*sizes, window), "a", tmp_path).Model.__module__].kernels
    cases = itertools.product((0, 1, 33), (1, 4), (False, True))
    for filled, shares, padded in [(0, 4, True), (33, 1, False), (33, 4, True)] if rank > 256 else cases:
        kernels._shares = lambda *_, shares=shares: shares
        q, k, _ = _new_token(heads, 1, rank + rotary, rank)
        keys = torch.full((2, 40, 1, rank + rotary), float("nan"))
        keys[:, :filled].normal_()
        positions, places = _places(filled, padded)
        state = (torch.tensor([filled]), *([positions] if window else []), places)
        o = kernels._latent_attention_step(*torch.split(q, (rank, rotary), -1), k, keys, *state, padded)
        assert torch.equal(keys[:, filled : filled + 1], k)
        assert keys[:, filled + 1 :].isnan().all()
        known = keys[:, : filled + 1]
        mask = Sliding(window) if window else Causal()
        truth = _attention(q, known, known[..., :rank], positions, places[:, : filled + 1], mask)
        assert distance(o, truth) < 3e-6, (filled, shares, padded)


@interpreted
def test_large_tiles_of_a_latent(tmp_path: Path) -> None:
    """Where there is room for them, in 16 bits: 64 keys, or 64 heads of many sequences; the same values."""
    heads, rank, rotary = 64, 512, 64
    kernels = sys.modules[build(_latent_spec(heads, rank, rotary, 0), "a", tmp_path).Model.__module__].kernels
    q, k, _ = (x.bfloat16() for x in _new_token(heads, 1, rank + rotary, rank))
    keys = torch.randn(2, 80, 1, rank + rotary).bfloat16()
    positions, places = torch.tensor([[70]]), torch.arange(80)[None]
    found = {}
    for room, (processors, shares) in itertools.product((0, 1 << 20), ((1, 1), (132, 4))):
        kernels._room, kernels._shares = (lambda _, room=room: room), (lambda *_, shares=shares: shares)
        kernels._processors = lambda _, processors=processors: processors
        state = (torch.tensor([70]), places)
        split = torch.split(q, (rank, rotary), -1)
        found[room, processors] = kernels._latent_attention_step(*split, k, keys.clone(), *state, False)
    keys[:, 70:71] = k
    known = keys[:, :71].double()
    truth = _attention(q.double(), known, known[..., :rank], positions, places[:, :71], Causal())
    assert all(distance(o, truth) < 4e-3 for o in found.values())


# What adds to the scores of a step: a bias that attention is given, or one that its kernel makes.
BIASES = {
    "relative": """t = parameter([8, 6], init = normal(std = 1)) as table
        b = relative_bias(positions(x), key_positions(x), t, bidirectional = false, distance = 12)""",
    "linear": "b = alibi_bias(positions(x), key_positions(x), heads = 6)",
    "given": """t = parameter([8, 6], init = normal(std = 1)) as table
        b = 2 * relative_bias(positions(x), key_positions(x), t, bidirectional = false, distance = 12)""",
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", few(BIASES, 2))
@interpreted
def test_a_step_with_a_bias(bias: str, mask: str, tmp_path: Path) -> None:
    """Whole models: the same logits as in float64, where kept keys lie anywhere, padded or in rings."""
    spec = _spec(6, 2, 12, 20, mask, "bias = b").replace("o = merge", f"{BIASES[bias]}\n        o = merge")
    package = build(spec, "a", tmp_path)
    exact = package.Reference(dtype=torch.float64)
    scramble(exact)
    exact.save_pretrained(tmp_path / "checkpoint")
    model = package.Model.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    kernels = _module(model, "kernels")
    assert any(name.endswith("_step") for name in vars(kernels))
    tokens = torch.randint(0, 50, (3, 13))
    for shares, padding in ((1, None), (4, PADDING)):
        kernels._shares = lambda *_, shares=shares: shares
        found, truth = (_logits_in_steps(each, tokens, padding) for each in (model, exact))
        assert distance(found, truth) < 1e-5, (shares, padding is not None)


@pytest.mark.parametrize(("heads", "bias"), few([(6, ""), (40, "given"), (6, "relative"), (40, "linear")], 2))
@interpreted
def test_a_step_over_keys_that_are_values(bias: str, heads: int, tmp_path: Path) -> None:
    """A latent without a rotary key beside it, for up to 32 heads in a program."""
    made = (
        BIASES[bias].replace("[8, 6]", f"[8, {heads}]").replace("heads = 6", f"heads = {heads}")
        if bias
        else ""
    )
    scores = "causal, bias = b" if bias else "sliding(7)"
    spec = f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        c = silu(linear(x, 20) as kv_down)
        k, v = split(split_heads(linear(c, {2 * 20 * heads}) as kv_up, {heads}), 2)
        q = split_heads(linear(x, {heads * 20}) as q_proj, {heads})
        {made}
        o = merge_heads(attention(q, k, v, mask = {scores}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """
    package = build(spec, "a", tmp_path)
    exact = package.Reference(dtype=torch.float64)
    scramble(exact)
    exact.save_pretrained(tmp_path / "checkpoint")
    model = package.Model.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    kernels = _module(model, "kernels")
    assert any(name.startswith("_shared") and name.endswith("_step") for name in vars(kernels))
    tokens = torch.randint(0, 50, (3, 13))
    for shares, padding in ((1, None), (4, PADDING)):
        kernels._shares = lambda *_, shares=shares: shares
        found, truth = (_logits_in_steps(each, tokens, padding) for each in (model, exact))
        assert distance(found, truth) < 1e-5, (shares, padding is not None)


def _logits_in_steps(model: Any, tokens: Tensor, padding: Tensor | None) -> Tensor:
    """Of all tokens after the first seven, one by one."""
    cache = model.new_cache(len(tokens), tokens.shape[1])
    model(tokens[:, :7], cache=cache, padding=padding)
    cache.start_steps()
    return torch.cat([model(token, cache=cache) for token in tokens[:, 7:].split(1, 1)], 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@interpreted
def test_a_step_over_another_sequence(shape: tuple[int, int, int, int], tmp_path: Path) -> None:
    """Keys and values as they are kept, side by side in rows of one tensor, or each for itself."""
    heads, kv_heads, head_dim, value_dim = shape
    asked = f"linear(x, {heads * head_dim}) as q_proj"
    changes = {
        "tokens: [B, T]": "tokens: [B, T], decoder_tokens: [B, U] = 0",
        "        q = split": "        y = embedding(decoder_tokens, 50, d) as wde\n        q = split",
        asked: asked.replace("(x,", "(y,"),
        "linear(x + ": "linear(y + ",
    }
    spec = _spec(*shape, "full")
    for old, new in changes.items():
        spec = spec.replace(old, new)
    kernels = sys.modules[build(spec, "a", tmp_path).Model.__module__].kernels
    for length, shares, (padded, packed) in itertools.product(
        (1, 33), (1, 4), ((False, True), (True, False), (True, True))
    ):
        kernels._shares = lambda *_, shares=shares: shares
        q, _, _ = _new_token(*shape)
        wide = torch.randn(2, length, kv_heads * (head_dim + value_dim))
        parts = wide.split([kv_heads * head_dim, kv_heads * value_dim], -1)
        k, v = (x.unflatten(-1, (kv_heads, -1)) for x in parts)
        k, v = (k, v) if packed else (k.contiguous(), v.contiguous())
        places = torch.arange(length)[None]
        if padded:
            places = torch.where(torch.rand(2, length) < 0.6, places, -1)
            places[0, -1] = length - 1
        o = kernels._attention_step(q, k, v, places, padded)
        truth = _attention(q, k, v, torch.zeros(2, 1, dtype=torch.int64), places, Full())
        some = (places >= 0).any(1).expand(2)
        assert o.isfinite().all()
        assert distance(o[some], truth[some]) < 3e-6, (length, shares, padded, packed)


def _new_token(heads: int, kv_heads: int, head_dim: int, value_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one new token of two sequences; the query is not contiguous."""
    q = torch.randn(2, 1, heads, head_dim + 3)[..., :head_dim]
    return q, torch.randn(2, 1, kv_heads, head_dim), torch.randn(2, 1, kv_heads, value_dim)


def _attention(
    q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, seen: Tensor, mask: Mask, **given: Any
) -> Tensor:
    """In float64, of one query of each sequence; seen: int64 [1 or B, S], where keys stand."""
    scale = q.shape[-1] ** -0.5
    wide = (x.double() for x in (q, keys, values))
    return attend(*wide, positions, seen, mask=mask, **{"scale": scale, **given})


def _places(filled: int, padded: bool) -> tuple[Tensor, Tensor]:
    """Positions of the next tokens, and of those in the cache and them, with padding anywhere."""
    places = torch.full((2 if padded else 1, 40), -1)
    for row in places:
        real = torch.ones(filled, dtype=torch.bool)
        if padded:
            real = torch.rand(filled) < 0.6
        row[:filled] = torch.where(real, real.cumsum(0) - 1, -1)
    positions = (places >= 0).sum(1, keepdim=True)
    places[:, filled : filled + 1] = positions
    return positions, places
