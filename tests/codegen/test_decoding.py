"""Decoding in steps of fixed shapes, as on a GPU: the same tokens, and nothing that waits for the device."""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.codegen.attention_steps import PADDING, module_beside
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, few, scramble

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
both = pytest.mark.parametrize("kind", ["Model", "Reference"])
every = pytest.mark.parametrize("model", TINY)


@functools.cache
def _package(model: str) -> Any:
    return build(SPECS / f"{TINY[model]}.arch", model, Path(mkdtemp()))


def _model(model: str, kind: str, dtype: torch.dtype = torch.float64) -> Any:
    made = getattr(_package(model), kind)(dtype=dtype)
    scramble(made, SEEDS.get(model, 0), spread=0.4)
    return made


def _tokens() -> Tensor:
    return torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(0))


def _in_steps(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    """What `generate` gives when its shapes are fixed."""
    decoder = module_beside(model, "decoding").Decoder
    run = decoder.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "run", lambda self, **_: run(self, True))
        found: Tensor = model.generate(tokens, **options)
    return found


@both
@every
@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
def test_steps_give_the_same_tokens(model: str, kind: str, padding: Tensor | None) -> None:
    made = _model(model, kind)
    expected = made.generate(_tokens(), 20, padding=padding)
    assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=20, padding=padding), expected)
    assert len(expected[:, 7:].unique()) > 3


@pytest.mark.parametrize(
    "model", [m if m in INTERPRETED else pytest.param(m, marks=pytest.mark.slow) for m in TINY]
)
@pytest.mark.parametrize(("padded", "shares"), few([(False, 1), (True, 4)], 1))
@interpreted
def test_steps_of_kernels_give_the_same_tokens(model: str, padded: bool, shares: int) -> None:
    """Also with keys that several programs share among them."""
    made = _model(model, "Model", torch.float32)
    kernels = module_beside(made, "kernels")
    assert any(name.startswith("_") and name.endswith("_step") for name in vars(kernels))
    padding = PADDING if padded else None
    expected = made.generate(_tokens(), 4, padding=padding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_shares", lambda *_: shares)
        found = _in_steps(made, _tokens(), max_new_tokens=4, padding=padding)
    assert torch.equal(found, expected)


@interpreted
def test_a_step_of_no_sequence() -> None:
    made = _model("llama3_tiny", "Model", torch.float32)
    cache, none = made.new_cache(0, 8), _tokens()[:0]
    made(none[:, :4], cache=cache)
    cache.start_steps()
    assert made(none[:, :1], cache=cache).shape == (0, 1, 160)


def test_positions_lie_side_by_side() -> None:
    """As kernels read them, also where those of padding's bits do not."""
    made = _model("llama3_tiny", "Model")
    apart = PADDING.mT.contiguous().mT
    for cache in (None, made.new_cache(*apart.shape)):
        span = module_beside(made, "runtime").spans(_tokens(), apart, cache)
        assert span.positions.is_contiguous()
        assert span.key_positions.is_contiguous()


@both
def test_sampled_tokens_are_the_same_in_steps(kind: str) -> None:
    made = _model("llama3_tiny", kind)
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 0.9, "seed": 3, "max_new_tokens": 12}
    assert torch.equal(_in_steps(made, _tokens(), **options), made.generate(_tokens(), **options))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_sequences_end_at_the_same_place_in_steps(count: int) -> None:
    """Steps look only now and then at whether all have ended."""
    made = _model("llama3_tiny", "Model")
    free = made.generate(_tokens(), 40)
    for ends in ([int(free[0, 9]), int(free[1, 10]), int(free[2, 8])], [int(free[0, 7])], 159):
        expected = made.generate(_tokens(), count, eos=ends)
        assert torch.equal(_in_steps(made, _tokens(), max_new_tokens=count, eos=ends), expected)


def test_steps_take_one_token_and_no_padding() -> None:
    made = _model("llama3_tiny", "Model")
    cache = made.new_cache(3, 20)
    made(_tokens(), cache=cache)
    cache.start_steps()
    for tokens, padding in ((_tokens(), None), (_tokens()[:, :1], PADDING[:, :1])):
        with pytest.raises(ValueError, match="takes one token"):
            made(tokens, cache=cache, padding=padding)


@both
def test_frequencies_are_computed_once_for_a_cache(kind: str) -> None:
    """They follow from no token; without a cache every call computes them."""
    made = _model("llama3_tiny", kind)
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
def test_where_no_graph_can_be_captured_there_is_one_notice() -> None:
    """The tokens are the same: what the attempt changed is taken back."""
    made = _model("llama3_tiny", "Model")
    module = module_beside(made, "decoding")
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
