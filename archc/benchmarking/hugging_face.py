"""transformers as a contender: the class that computes the same as a spec's model, on the same weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc.benchmarking.contenders import pieces, training_step, without_gradients
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.timing import Run

_NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
_CACHES = ("cache", "past_key_values")  # what a class calls its cache; an encoder has none
_LONGEST = 1 << 17  # tokens that rotary positions are said to be for; nothing is kept for each


def load(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The model of a config on tensors by their names in the checkpoint, whose memory it shares."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    given = dict(config)
    if "rope_parameters" in given:
        given.setdefault("max_position_embeddings", _LONGEST)
    architecture = given.pop("architectures")[0]
    made = transformers.AutoConfig.for_model(**{**_NO_TOKENS, **given})
    dtype = next(iter(tensors.values())).dtype
    cls = getattr(transformers, architecture)
    attention = "sdpa" if cls._supports_sdpa else "eager"
    model = cls.from_pretrained(
        None, config=made, state_dict=dict(tensors), dtype=dtype, attn_implementation=attention
    )
    return model.to(next(iter(tensors.values())).device).eval()


class HuggingFace:
    """A model of transformers as its users call it."""

    def __init__(self, name: str, model: Any):
        self.name = name
        self.model = model
        self.call = model.forward
        parameters = inspect.signature(model.forward).parameters
        self.cache_name = next((name for name in _CACHES if name in parameters), None)

    def cache(self, _length: int) -> Any:
        """A cache that grows, as `generate` uses it unless told otherwise."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def logits(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.model(tokens).logits
        return found

    def prefill(self, tokens: Tensor) -> Run:
        if self.cache_name is None:
            return without_gradients(lambda: self.model(tokens).logits)
        return without_gradients(lambda: self._last(self.model, tokens, self.cache(tokens.shape[1])))

    def decode(self, prompt: Tensor, count: int) -> Run:
        cache = self.cache(prompt.shape[1] + count)
        with torch.no_grad():
            for piece in pieces(prompt):
                token = self._last(self.model, piece, cache)

        def step() -> None:
            nonlocal token
            token = self._last(self.call, token, cache)

        return without_gradients(step)

    def train(self, tokens: Tensor) -> Run:
        return training_step(self.model, partial(self._loss, self.model, tokens))

    def _loss(self, call: Callable[..., Any], tokens: Tensor) -> Tensor:
        found: Tensor = call(tokens, labels=tokens, **({"use_cache": False} if self.cache_name else {})).loss
        return found

    def _last(self, call: Any, tokens: Tensor, cache: Any) -> Tensor:
        """The likeliest tokens [B, 1] after tokens [B, T]."""
        assert self.cache_name is not None
        given = {self.cache_name: cache, "use_cache": True, "logits_to_keep": 1}
        found: Tensor = call(tokens, **given).logits[:, -1].argmax(-1, keepdim=True)
        return found


class Compiled(HuggingFace):
    """The same by TorchDynamo, with a static cache: on a GPU in CUDA graphs."""

    def __init__(self, name: str, model: Any):
        super().__init__(name, model)
        self.on_gpu = next(model.parameters()).is_cuda
        mode = "reduce-overhead" if self.on_gpu else None
        self.call = torch.compile(model.forward, mode=mode, fullgraph=True)
        self.whole = torch.compile(model.forward)

    def cache(self, length: int) -> Any:
        from transformers import StaticCache

        return StaticCache(config=self.model.config, max_cache_len=length)

    def prefill(self, tokens: Tensor) -> Run:
        """With one cache for all calls, set back before each: new ones would be compiled for anew."""
        whole: Any = self.whole
        if self.cache_name is None:
            return without_gradients(lambda: whole(tokens).logits)
        cache = self.cache(tokens.shape[1])

        def run() -> Tensor:
            cache.reset()
            return self._last(self.whole, tokens, cache)

        with torch.no_grad():
            self._last(self.model, tokens, cache)
        return without_gradients(run)

    def train(self, tokens: Tensor) -> Run:
        return training_step(self.model, partial(self._loss, self.whole, tokens))


class Liger(HuggingFace):
    """With Liger's kernels, which take the place of functions of transformers: only while they are called."""

    def __init__(self, name: str, model: Any):
        if not next(model.parameters()).is_cuda:
            raise SkippedError("Liger's kernels run on a GPU only")
        try:
            from liger_kernel.transformers.monkey_patch import (
                MODEL_TYPE_TO_APPLY_LIGER_FN,
                _apply_liger_kernel_to_instance,
            )
        except ImportError as error:
            raise SkippedError(f"liger-kernel cannot be imported: {error}") from None
        if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
            raise SkippedError(f"Liger has nothing for models of type {model.config.model_type}")
        module = inspect.getmodule(type(model))
        assert module is not None
        before = dict(vars(module))
        _apply_liger_kernel_to_instance(model)
        self.patch = {name: value for name, value in vars(module).items() if before.get(name) is not value}
        vars(module).update({name: before[name] for name in self.patch})
        self.module: ModuleType = module
        super().__init__(name, model)

    def logits(self, tokens: Tensor) -> Tensor:
        with self._patched():
            return super().logits(tokens)

    def prefill(self, tokens: Tensor) -> Run:
        return self._while_patched(super().prefill(tokens))

    def decode(self, prompt: Tensor, count: int) -> Run:
        with self._patched():
            return self._while_patched(super().decode(prompt, count))

    def train(self, tokens: Tensor) -> Run:
        return self._while_patched(super().train(tokens))

    def _while_patched(self, run: Run) -> Run:
        def patched() -> object:
            with self._patched():
                return run()

        return patched

    @contextmanager
    def _patched(self) -> Iterator[None]:
        original = {name: vars(self.module)[name] for name in self.patch}
        vars(self.module).update(self.patch)
        try:
            yield
        finally:
            vars(self.module).update(original)
