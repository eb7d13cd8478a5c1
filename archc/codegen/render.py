"""Plan -> text: Jinja fills the templates, black sets the layout."""

from __future__ import annotations

import re
import string
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined

from archc import resources
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.helpers import helpers_in
from archc.codegen.kernels.kernel_plan import Kernel, OpKernel
from archc.codegen.layout import LINE_LENGTH, UnknownShapeError, lay_out
from archc.codegen.modules.class_plan import Class
from archc.codegen.native.native_helpers import plan_native_helpers
from archc.codegen.native.native_plan import FEW_ROWS, GROUPED_LINEAR, LINEAR, MOST_ROWS, NativeFunction
from archc.codegen.plan import Module, Package, ReportPlan

# What kernels use of runtime.py, and how.
_FROM_RUNTIME = {
    "Documents": r"\bDocuments\b",
    "Past": r"\bPast\b",
    "Span": r"\bSpan\b",
    "autocast": r"= autocast\(",
    "differentiable": r"_op\(|differentiable\(",
    "differentiated_once": "@differentiated_once",
    "op_namespace": r"@jit|_op\(",
    "without_autocast": "@without_autocast",
}
_IN_NAMES = string.ascii_letters + string.digits + "_"


@cache
def _environment() -> Environment:
    folder = resources.cache_dir()
    environment = Environment(
        loader=FileSystemLoader(resources.resource_dir("templates")),
        bytecode_cache=FileSystemBytecodeCache(str(folder)) if folder else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["wrapped"] = _wrapped
    environment.filters["folded"] = _folded
    environment.filters["unpacked"] = _unpacked
    return environment


@lru_cache(maxsize=1024)
def _wrapped(text: str, indent: int = 4) -> str:
    """The text on lines that fit, for a docstring at an indent; a shape stays whole, beside its name."""
    whole = re.sub(r" ?\[[^]]*\]", lambda shape: shape[0].replace(" ", "\0"), text)
    lines = textwrap.fill(whole, LINE_LENGTH - 12, subsequent_indent=" " * indent, break_long_words=False)
    return lines.replace("\0", " ")


@lru_cache(maxsize=4096)
def _folded(text: str, indent: int = 8) -> str:
    """A statement of C++ on lines that fit, of which those after the first have an indent."""
    joined = re.sub(r"(?<!,) ", "\0", text)  # only after commas
    width = LINE_LENGTH - max(indent - 8, 0)
    folded = textwrap.fill(joined, width, subsequent_indent=" " * indent, break_long_words=False)
    return folded.replace("\0", " ")


def _unpacked(names: Sequence[str]) -> str:
    """The left side of an assignment from a tuple."""
    return ", ".join(names) if len(names) != 1 else f"({names[0]},)"


def _fill(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context).strip("\n")


def render_package(package: Package, report: ReportPlan) -> dict[str, str]:
    """The files of a package by name, without their headers."""
    sources = {
        "__init__.py": _fill("__init__.py.jinja", package=package),
        "model.py": _module(package, package.model),
        "reference.py": _module(package, package.reference),
        "checkpoint.py": _fill("checkpoint.py.jinja", package=package),
        "inputs.py": _fill("inputs.py.jinja", package=package),
    }
    called = _called(sources.values())
    if package.cached and not package.loss:
        sources["cached_model.py"] = _fill("cached_model.py.jinja", package=package)
    if package.loss:
        sources["language_model.py"] = _fill("language_model.py.jinja", package=package)
    if package.generates:
        sources["decoding.py"] = _fill("decoding.py.jinja", package=package)
    if package.experts:
        sources["experts.py"] = _fill("experts.py.jinja", package=package, called=called)
    if package.quantised:
        sources["quantised.py"] = _fill("quantised.py.jinja", package=package)
    if package.trains:
        sources["losses.py"] = _fill("losses.py.jinja", package=package, called=called)
    if package.kernels:
        sources["kernels.py"] = _kernels(package)
    native = _native(package)
    sources["native.py"] = native["native.py"]
    sources["runtime.py"] = _fill("runtime.py.jinja", package=package, called=_called(sources.values()))
    files = {name: format_python(text) for name, text in sources.items()}
    files["native.cpp"] = native["native.cpp"] + "\n"
    files["REPORT.md"] = _fill("REPORT.md.jinja", report=report) + "\n"
    return files


def _called(texts: Iterable[str]) -> frozenset[str]:
    """The names that texts call, decorate with, or read of something."""
    text = "\n".join(texts)
    read = re.findall(r"[.@](\w+)", text)
    called = [before[len(before.rstrip(_IN_NAMES)) :] for before in text.split("(")[:-1]]
    return frozenset((*read, *called))


def format_python(text: str) -> str:
    """A module's text as black lays it out; parts between two or more blank lines are laid out apart."""
    return "\n\n".join(_laid_out(part) for part in re.split("\n{3,}", text))


def _laid_out(part: str) -> str:
    try:
        return lay_out(part)
    except UnknownShapeError:
        return by_black(part)


@lru_cache(maxsize=1024)
def by_black(text: str) -> str:
    """A text's statements, formatted by black: kernels recur from package to package."""
    import black
    from black.mode import Mode, TargetVersion

    return black.format_str(text, mode=Mode(target_versions={TargetVersion.PY311}, line_length=LINE_LENGTH))


def _module(package: Package, module: Module) -> str:
    classes: list[str] = []
    for each in module.classes:
        classes.append(_class(package, each))
        if each.stack:
            classes.append(_fill("decode_layers.jinja", n=each.stack))
    return _fill("model.py.jinja", package=package, module=module, classes=classes)


def _class(package: Package, plan: Class) -> str:
    base = plan.base.name if plan.base else package.base if plan.is_model else "StoredModule"
    return _fill("class.jinja", c=plan, base=base, package=package)


def _kernels(package: Package) -> str:
    kernels = [
        _fill(f"kernels/{kernel.template}.jinja", k=kernel, package=package) for kernel in package.kernels
    ]
    text = "\n".join(kernels)
    helpers = helpers_in(text)
    helpers = helpers_in("\n".join([text, *(_fill(f"kernels/{name}.jinja") for name in helpers)]))
    imports = []
    if modules := [name for name in ("native", "reference") if f"{name}." in text]:
        imports.append(f"from . import {', '.join(modules)}")
    if runtime := [name for name, use in _FROM_RUNTIME.items() if re.search(use, text)]:
        imports.append(f"from .runtime import {', '.join(runtime)}")
    return _fill(
        "kernels.py.jinja",
        package=package,
        kernels=kernels,
        imports=imports,
        text=text,
        helpers=helpers,
    )


def _native_functions(package: Package) -> list[tuple[str, NativeFunction, Kernel]]:
    """The kernels that are functions of native.cpp too, each with its template."""
    found: list[tuple[str, NativeFunction, Kernel]] = []
    for kernel in package.kernels:
        if isinstance(kernel, AttentionKernel) and kernel.native:
            found.append(("attention", kernel.native.function, kernel))
        elif isinstance(kernel, OpKernel) and kernel.native:
            found.append((kernel.native.template, kernel.native.call.function, kernel))
            if gradient := kernel.native.gradient:
                found.append((gradient.template, gradient.function, kernel))
    return found


def _native(package: Package) -> dict[str, str]:
    """native.py and native.cpp."""
    found = _native_functions(package)
    layers = [each.native for each in package.model.classes if each.native and each.native_call]
    stacks = package.model.stacks
    kernels = [_fill(f"native/{template}.jinja", k=kernel, few=FEW_ROWS) for template, _, kernel in found]
    bodies = [_fill("native/layer.jinja", k=layer) for layer in layers]
    bodies += [_fill("native/layers.jinja", k=stack) for stack in stacks]
    of_experts = {"grouped_linear": GROUPED_LINEAR, "few": FEW_ROWS, "most": MOST_ROWS}
    grouped = [_fill("native/grouped.jinja", **of_experts)] if package.experts else []
    context = {
        "few": FEW_ROWS,
        "most": MOST_ROWS,
        "linear": LINEAR,
        "functions": [
            LINEAR,
            *([GROUPED_LINEAR] if package.experts else []),
            *(function for _, function, _ in found),
            *(stack.function for stack in stacks),
        ],
        "helpers": plan_native_helpers([*kernels, *bodies, *grouped]),
        "grouped": grouped,
        "kernels": kernels,
        "layers": bodies,
        "stacks": stacks,
    }
    return {
        f"native.{kind}": _fill(f"native.{kind}.jinja", package=package, **context) for kind in ("py", "cpp")
    }
