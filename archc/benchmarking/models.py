"""The models of a run: the package's, and its peers on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from archc.benchmarking.contenders import Contender, Package, share_weights
from archc.benchmarking.hugging_face import Compiled, HuggingFace, Liger, load
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.results import OURS
from archc.compiler import Compilation
from archc.ir.decoding import decodes
from archc.ir.logits import vocabulary_of
from archc.ir.program import sequences
from archc.peer import Peer, find_peer
from archc.verification.packages import import_package, stored_tensors

REFERENCE, EAGER, COMPILED, LIGER = (
    "archc Reference",
    "Hugging Face",
    "Hugging Face, compiled",
    "Hugging Face, Liger",
)
PEERS = (EAGER, REFERENCE, LIGER, COMPILED)

# How far apart logits may be of models that compute the same, each with roundings of its own.
_APART = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.15}
_TRIAL = 16  # tokens on which that is looked at


@dataclass
class Models:
    """Contenders by name, made when first asked for; all hold the weights of one model in common."""

    compilation: Compilation
    folder: Path
    device: torch.device
    dtype: torch.dtype
    context: int | None = None  # tokens that a learned table of positions has room for
    layers: int | None = None  # where a case should tell them
    config: Mapping[str, Any] | None = None  # of the class of transformers, where a user names it
    _made: dict[str, Contender | str] = field(default_factory=dict)

    @cached_property
    def package(self) -> ModuleType:
        return import_package(self.compilation, self.folder)

    @cached_property
    def model(self) -> Any:
        """The package's `Model`, with start values for training; on a CPU with its native code."""
        if self.device.type == "cpu":
            self.package.native.build()
        return self.package.Model(dtype=self.dtype, device=self.device)

    def get(self, name: str) -> Contender:
        """A contender; raises `SkippedError` where there is none, or where it computes something else."""
        if name not in self._made:
            try:
                contender = _MAKERS[name](self, name)
                if name != OURS:
                    self._compare(contender)
                self._made[name] = contender
            except SkippedError as skipped:
                self._made[name] = str(skipped)
        found = self._made[name]
        if isinstance(found, str):
            raise SkippedError(found)
        return found

    def _compare(self, contender: Contender) -> None:
        """Hold a contender's logits to ours: a benchmark against another model means nothing."""
        tokens = self.tokens(1, _TRIAL)
        with torch.no_grad():
            ours, theirs = (each.logits(tokens).double() for each in (self.get(OURS), contender))
        apart = float((ours - theirs).norm() / ours.norm())
        if not apart < _APART[self.dtype]:
            raise SkippedError(f"it computes something else: logits are {apart:.1e} apart")

    def tokens(self, batch: int, length: int) -> torch.Tensor:
        """Random tokens, the same ones for every contender."""
        generator = torch.Generator(self.device).manual_seed(0)
        vocabulary = vocabulary_of(self.compilation.fused)
        return torch.randint(vocabulary, (batch, length), device=self.device, generator=generator)

    @cached_property
    def decodes(self) -> bool:
        """Whether the model writes token after token; an encoder does not."""
        return decodes(self.compilation.reference)

    def fits(self, length: int) -> int:
        """A length, or the longest that the model takes."""
        return length if self.context is None else min(length, self.context)

    def ours(self, name: str) -> Contender:
        return Package(name, self.model)

    def reference(self, name: str) -> Contender:
        reference: Any = self.package.Reference(dtype=self.dtype, device="meta")
        share_weights(reference, self.model)
        return Package(name, reference)

    def hugging_face(self, name: str, kind: Callable[[str, Any], Contender] = HuggingFace) -> Contender:
        if len(sequences(self.compilation.fused)) > 1:
            raise SkippedError("only decoders are compared with transformers")
        peer = Peer(self.config) if self.config else find_peer(self.compilation.program)
        if peer.config is None:
            raise SkippedError(f"{peer.reason}; --config names one")
        try:
            tensors = dict(stored_tensors(self.model))
            return kind(name, load(peer.config, tensors))
        except ImportError:
            raise SkippedError("transformers is not installed: pip install 'archc-compiler[bench]'") from None


_MAKERS: dict[str, Callable[[Models, str], Contender]] = {
    OURS: Models.ours,
    REFERENCE: Models.reference,
    EAGER: Models.hugging_face,
    COMPILED: lambda models, name: models.hugging_face(name, Compiled),
    LIGER: lambda models, name: models.hugging_face(name, Liger),
}
