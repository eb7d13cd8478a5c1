"""Decoding steps as CUDA graphs: the tokens of ordinary steps, without allocations and without waiting."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import SPECS, build, scramble

pytestmark = pytest.mark.gpu

MODELS = {
    "bloom_tiny": "bloom",
    "deepseek_v3_tiny": "deepseek_v3",
    "gemma3_tiny": "gemma3",
    "gpt2_tiny": "gpt2",
    "gpt_oss_tiny": "gpt_oss",
    "llama3_tiny": "llama3",
    "llama4_tiny": "llama4",
    "mistral_tiny": "mistral",
    "mixtral_tiny": "mixtral",
    "qwen3_moe_tiny": "qwen3_moe",
}
SEEDS = {"bloom_tiny": 1}  # of weights that give more than a few tokens
PADDING = [[1] * 7, [0] * 3 + [1] * 4, [1] * 5 + [0] * 2]
NEW = 40  # tokens, most of them from the graph


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    """A graph that could not be captured would only warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def _model(name: str, folder: Path, dtype: torch.dtype) -> Any:
    made = build(SPECS / f"{MODELS[name]}.arch", name, folder).Model(dtype=dtype, device="cuda")
    scramble(made, SEEDS.get(name, 0), spread=0.4)
    return made


def _decoding(model: Any) -> Any:
    return sys.modules[type(model).__module__.rpartition(".")[0] + ".decoding"]


def _tokens() -> Tensor:
    return torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(0)).cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_captured_steps_give_the_same_tokens(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _model(name, tmp_path, dtype)
    decoding = _decoding(made)
    for options in ({}, {"padding": torch.tensor(PADDING, dtype=torch.bool, device="cuda")}):
        captured = made.generate(_tokens(), NEW, **options)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_CAPTURED", NEW + 1)
            assert torch.equal(made.generate(_tokens(), NEW, **options), captured)
        assert len(captured[:, 7:].unique()) > 3


def test_sampled_tokens_are_drawn_anew_in_each_replay(tmp_path: Path) -> None:
    made = _model("llama3_tiny", tmp_path, torch.float32)
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 0.9, "seed": 3}
    first, second = (made.generate(_tokens(), NEW, **options) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first[:, 7:].unique()) > 10
    assert not torch.equal(made.generate(_tokens(), NEW, **options | {"seed": 4}), first)


def test_after_a_capture_that_failed_tokens_are_drawn_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model's own numbers and by those of the process; and on the stream that was there before."""
    made = _model("llama3_tiny", tmp_path, torch.float32)
    decoding, stream = _decoding(made), torch.cuda.current_stream()
    options: dict[str, Any] = {"temperature": 2.0, "seed": 3}
    expected = made.generate(_tokens(), NEW, **options)

    def waits(self: Any) -> None:
        assert int(self.token.sum()) >= 0
        self._keep(self.sampler(self.model(self.token)))

    monkeypatch.setattr(decoding.Decoder, "step", waits)
    with pytest.warns(RuntimeWarning, match="without a CUDA graph"):
        assert torch.equal(made.generate(_tokens(), NEW, **options), expected)
    assert torch.cuda.current_stream() == stream
    torch.randn(3, device="cuda")


@pytest.mark.parametrize("name", MODELS)
def test_a_captured_step_neither_allocates_nor_waits(name: str, tmp_path: Path) -> None:
    made = _model(name, tmp_path, torch.bfloat16)
    decoding = _decoding(made)
    cache = made.new_cache(3, 7 + NEW)
    with torch.no_grad():
        made(_tokens(), cache=cache)
        sampler = decoding.Sampler(0.0, 1.0, None, torch.device("cuda"))
        decoder = decoding.Decoder(
            lambda token: made(token, cache=cache)[:, 0], cache, sampler, None, _tokens()[:, -1], NEW
        )
        cache.start_steps()
        decoder.step()
        replay = decoder.capture()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(8):
                replay()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert int(decoder.place) == 10
