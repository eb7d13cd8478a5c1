"""A package holds no function, constant or option that nothing in it needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, build

PACKAGES = sorted(path.parent for path in (ROOT / "generated").glob("*/model.py"))

# What is there for its owner to call, and what PyTorch and Python call.
FOR_OTHERS = {
    "Model",
    "Reference",
    "loss",
    "generate",
    "log_probs",
    "save_pretrained",
    "from_pretrained",
    "build",
    "rewind",
    "take",
}
FOR_OTHERS |= {"counted", "balance", "forward", "backward", "CACHED", "__all__", "__init__", "__call__", "_"}
FOR_OTHERS |= {"generate_vmap_rule", "extra_repr", "__repr__"}  # Python and PyTorch read these
OPTIONS_FOR_OTHERS = {
    "Model",
    "__init__",
    "loss",
    "log_probs",
    "generate",
    "from_pretrained",
    "forward",
    "hidden",
}


def _trees(package: Path, but: str = "") -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(package.glob("*.py")) if path.name != but]


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names of functions, classes and constants, those inside of classes too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from _defined(node.body)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name))


def _mentioned(tree: ast.Module) -> Iterator[str]:
    """Names that are read, attributes, and words of strings such as `hasattr` is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and str(node.value).isidentifier():
            yield node.value


def _options(tree: ast.Module) -> Iterator[tuple[str, str, int | None]]:
    """Parameters with a default: the function's name, their own, and their place if they have one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in OPTIONS_FOR_OTHERS:
            given = [a.arg for a in node.args.args if a.arg != "self"]
            first = len(given) - len(node.args.defaults)
            yield from ((node.name, name, first + place) for place, name in enumerate(given[first:]))
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from ((node.name, arg.arg, None) for arg, default in named if default is not None)


def _gives(call: ast.Call, function: str, option: str, place: int | None) -> bool:
    """Whether a call of a function gives an option, or may give it."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called != function:
        return False
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    by_place = place is not None and (starred or len(call.args) > place)
    return by_place or any(keyword.arg in (option, None) for keyword in call.keywords)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_all_that_is_defined_is_used(package: Path) -> None:
    trees = _trees(package)
    used = {name for tree in trees for name in _mentioned(tree)} | FOR_OTHERS
    assert {name for tree in trees for name in _defined(tree.body)} - used == set()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_option_is_given_somewhere(package: Path) -> None:
    """Kernels apart, which are given None."""
    calls = [node for tree in _trees(package) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = {option for tree in _trees(package, but="kernels.py") for option in _options(tree)}
    assert {option for option in options if not any(_gives(call, *option) for call in calls)} == set()


def _unread(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Parameters that a kernel, or the op of attention's gradient, does not read."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.endswith(("_kernel", "_flash_backward")):
            read = {name for statement in node.body for name in _mentioned(ast.Module([statement], []))}
            yield from ((node.name, argument.arg) for argument in node.args.args if argument.arg not in read)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_kernels_read_what_they_take(package: Path) -> None:
    assert list(_unread(ast.parse((package / "kernels.py").read_text()))) == []


@pytest.mark.parametrize("name", ["both_ways", "slstm"])
def test_kernels_take_no_row_that_is_there_for_its_shape_alone(name: str, tmp_path: Path) -> None:
    """As one that only results of a constant are as long as, or whose gradient is that of a result."""
    kernels = build(ROOT / "tests" / "architectures" / f"{name}.arch", name, tmp_path).kernels
    assert list(_unread(ast.parse(Path(kernels.__file__).read_text()))) == []
