"""Whole models that are timed: one interface, and our own packages behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from archc.benchmarking.timing import Run
from archc.verification.packages import given_tokens, stored_tensors

_PIECE = {"cpu": 4096, "cuda": 32768}  # tokens that go through a model at once while nobody looks at the time


class Contender(Protocol):
    """A language model.  Each method prepares what a call of its result then does."""

    name: str

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> logits [B, T, V]."""

    def prefill(self, tokens: Tensor) -> Run:
        """Read a prompt [B, T] into a new cache; the last token's logits.  Without a cache those of all."""

    def decode(self, prompt: Tensor, count: int) -> Run:
        """One token of each sequence, up to `count` times after a prompt [B, S]."""

    def train(self, tokens: Tensor) -> Run:
        """Loss, gradients and a step of AdamW on tokens [B, T]."""


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Run:
    """A step of AdamW, which PyTorch fuses on a GPU."""
    on_gpu = next(model.parameters()).is_cuda
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=on_gpu)

    def step() -> None:
        try:
            loss().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        finally:  # also where memory was not enough for all of them
            optimiser.zero_grad(set_to_none=True)

    return step


def pieces(prompt: Tensor) -> Iterator[Tensor]:
    """A prompt in pieces of a bounded number of tokens."""
    yield from torch.split(prompt, max(_PIECE[prompt.device.type] // len(prompt), 1), 1)


def without_gradients(run: Run) -> Run:
    """The run, with nothing kept for a backward pass."""
    wrapped: Run = torch.no_grad()(run)
    return wrapped


def fill(model: Any, prompt: Tensor, cache: Any) -> None:
    """Let a package's model read a prompt [B, S] into a cache; an encoder reads all of it at first."""
    encoded: Tensor | None = prompt
    for piece in pieces(prompt):
        model.hidden(*given_tokens(model, piece, encoded), cache=cache)
        encoded = None


class Package:
    """`Model` or `Reference` of a generated package.  An encoder is given the tokens that a decoder is."""

    def __init__(self, name: str, model: Any):
        self.name = name
        self.model = model

    def logits(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.model.head(self.model.hidden(*given_tokens(self.model, tokens, tokens)))
        return found

    def prefill(self, tokens: Tensor) -> Run:
        batch, length = tokens.shape
        if not hasattr(self.model, "new_cache"):
            return without_gradients(lambda: self.logits(tokens))

        def run() -> Tensor:
            cache = self.model.new_cache(batch, length)
            h = self.model.hidden(*given_tokens(self.model, tokens, tokens), cache=cache)
            found: Tensor = self.model.head(h[:, -1:])
            return found

        return without_gradients(run)

    def decode(self, prompt: Tensor, count: int) -> Run:
        """As `generate` does it, in a CUDA graph where that can be, which two ordinary steps come before."""
        ordinary = 2 if prompt.is_cuda else 0
        decoding = importlib.import_module(f"{type(self.model).__module__.rpartition('.')[0]}.decoding")
        cache = self.model.new_cache(len(prompt), prompt.shape[1] + ordinary + count)

        def logits(token: Tensor) -> Tensor:
            h = self.model.hidden(*given_tokens(self.model, token, None), cache=cache)
            found: Tensor = self.model.head(h)[:, 0]
            return found

        with torch.no_grad():
            fill(self.model, prompt, cache)
            sampler = decoding.Sampler(0.0, 1.0, 0, prompt.device)
            decoder = decoding.Decoder(logits, cache, sampler, None, prompt[:, -1], 1 + ordinary + count)
            if not prompt.is_cuda:
                return without_gradients(decoder.step)
            cache.start_steps()
            for _ in range(ordinary):
                decoder.step()
            captured: Run = decoder.capture()
        return captured

    def train(self, tokens: Tensor) -> Run:
        given = given_tokens(self.model, tokens, tokens)
        return training_step(self.model, lambda: self.model.loss(*given, tokens))


def share_weights(reference: Any, model: Any) -> None:
    """Let a package's `Reference`, made without memory, take the weights of its `Model`.

    A parameter that is one tensor of the checkpoint shares its memory; others are put together anew.
    """
    tensors = dict(stored_tensors(model))
    checkpoint = importlib.import_module(f"{type(reference).__module__.rpartition('.')[0]}.checkpoint")
    for module in reference.modules():
        for name, parts in module.stored().items() if hasattr(module, "stored") else ():
            shape = getattr(module, name).shape
            whole = tensors[parts[0].name]
            held = whole.mT if getattr(parts[0], "transposed", False) else whole
            if len(parts) > 1 or held.shape != shape:
                held = torch.empty(shape, dtype=whole.dtype, device=whole.device)
                for stored, rows in checkpoint.rows_of(held, parts):
                    rows.copy_(tensors[stored.name].reshape(rows.shape))
            setattr(module, name, nn.Parameter(held))
