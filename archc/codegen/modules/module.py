"""Classes -> the plan of the module that holds them: what it imports and which constants it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import Kernel, OpKernel
from archc.codegen.modules.class_plan import Class
from archc.codegen.names import mentions
from archc.codegen.plan import Constant, Module
from archc.codegen.semantics import Semantics
from archc.ir.ops.training import IN_TRAINING

_LOSSES = ("Losses", *(op.name for op in IN_TRAINING))
_MODULES = ("experts", "kernels", "native")
_RUNTIME = (
    "Cache",
    "Carried",
    "Numbers",
    "Ring",
    "Span",
    "Wide",
    "carried",
    "check_cache",
    "check_kept",
    "fixed_span",
    "in_rows",
    "kept",
    "lasting",
    "once",
    "packed_span",
    "past",
    "remember",
    "scan",
    "spans",
    "states",
    "transformed",
    "vector",
    "with_front",
)

_COMMENT = re.compile(r"^\s*#.*|  # \[.*", re.MULTILINE)  # blocks and dims there have names of the spec's own
_CALLED = re.compile(r"(?:(?<![\w.])|(?<=reference\.))(\w++)[(,]")  # functions, called or handed on

# What generated code calls by names that no variable may take.
TAKEN = frozenset(
    (
        *_RUNTIME,
        *_LOSSES,
        *_MODULES,
        "check_inputs",
        "front",
        "losses",
        "decode_layers",
        "decoded",
        "Stored",
        "StoredModule",
        "at_least_float32",
        "per_expert",
    )
)


def plan_module(
    title: str,
    classes: Sequence[Class],
    semantics: Semantics,
    constants: Sequence[Constant],
    base: str,
    helpers: tuple[str, ...],
) -> Module:
    """A module of classes: it imports, and has as constants, what its text mentions."""
    text = "\n".join([class_text(classes), *helpers])
    code = _COMMENT.sub("", text)
    runtime = sorted(name for name in _RUNTIME if _needs(code, name))
    parameters = [parameter for each in classes for parameter in each.parameters]
    stored = {"Stored", base} | ({"per_expert"} if any(p.per_expert for p in parameters) else set())
    stored |= {"StoredModule"} if any(not each.is_model or each.stack for each in classes) else set()
    stored |= {"at_least_float32"} if any(p.wide for p in parameters) else set()
    imports = ["from .cached_model import CachedModel"] if base == "CachedModel" else []
    imports.append(f"from .checkpoint import {', '.join(sorted(stored - {'CachedModel', 'LanguageModel'}))}")
    imports.append("from .inputs import check_inputs")
    if base == "LanguageModel":
        imports.append("from .language_model import LanguageModel")
    modules = [name for name in _MODULES if f"{name}." in text]
    losses = sorted(name for name in _LOSSES if _needs(code, name))
    if losses:
        imports.append(f"from .losses import {', '.join(losses)}")
    if modules:
        imports.insert(0, f"from . import {', '.join(modules)}")
    called = () if helpers else _used(semantics, [text])
    if called:
        imports.append(f"from .reference import {', '.join(called)}")
    if runtime:
        imports.append(f"from .runtime import {', '.join(runtime)}")
    used = tuple(constant for constant in constants if mentions(text, constant.name))
    functional = mentions(code, "F", r"\.")
    return Module(title, tuple(imports), used, helpers, tuple(classes), functional)


def class_text(classes: Sequence[Class]) -> str:
    """The texts in classes, to find the names that they mention."""
    parts: list[str] = []
    for each in classes:
        parts += [str(line) for line in each.lines]
        parts += [p.per_expert.count for p in each.parameters if p.per_expert]
        parts += [p.shape for p in each.parameters]
        stored = [s for p in each.parameters for s in (*p.stored, *p.shared)]
        parts += [" ".join((s.rows, s.heads, *s.parts, s.expert)) for s in stored]
        parts += [layers.modules for layers in each.layers]
        parts += [str(argument) for argument in each.arguments]
        parts += [each.result, *(shape for _, shape in each.state)]
        if each.stack:
            parts += [
                "native.call",
                *map(str, each.stack.arguments),
                *(shape for _, shape, _ in each.stack.made),
            ]
        if each.fixed:
            parts += [*map(str, each.fixed.lines), *map(str, each.fixed.arguments), each.fixed.result]
        if each.following:
            parts += [*map(str, each.following.lines), each.following.result]
        if each.head:
            parts += [f"kernels.{each.head.loss.name}", each.head.linear, "transformed()"]
            parts += [*map(str, each.head.tail), each.head.result]
    return "\n".join(parts)


def _kernel_texts(kernels: Sequence[Kernel]) -> list[str]:
    plain = [str(line) for k in kernels if isinstance(k, OpKernel | RouterKernel) for line in k.op.plain]
    looks = [kernel for kernel in kernels if isinstance(kernel, ConvolutionKernel)]
    return [*plain, *(str(line) for kernel in looks for line in (*kernel.plain, kernel.reference))]


def called_functions(
    semantics: Semantics, plain: Sequence[Class], kernels: Sequence[Kernel], model: Sequence[Class]
) -> tuple[str, ...]:
    """The functions of reference.py: those that either model calls, or kernels where there is no GPU."""
    texts = [class_text(plain), class_text(model), *_kernel_texts(kernels)]
    return tuple(semantics.sources[name] for name in _used(semantics, texts))


def _used(semantics: Semantics, texts: Iterable[str]) -> tuple[str, ...]:
    """Names of the reference functions that texts call, in order of the alphabet."""
    called = set(_CALLED.findall("\n".join(texts)))
    return tuple(sorted(called & semantics.sources.keys()))


def _needs(code: str, name: str) -> bool:
    """Whether code calls a function, or names a class."""
    return mentions(code, name, r"\(" if name.islower() else r"\b")
