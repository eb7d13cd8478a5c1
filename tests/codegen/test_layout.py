"""The layout of generated code is black's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from archc import compiler
from archc.codegen import render
from archc.codegen.emit import Origin
from archc.codegen.layout import LINE_LENGTH, UnknownShapeError, lay_out
from archc.codegen.render import by_black
from tests.support import ROOT, SPECS, compile_model, few

FAMILIES = sorted((ROOT / "tests" / "interop" / "families").glob("*.arch"))
STANDARD = [path for path in sorted(SPECS.glob("*.arch")) if "\nmodel " in path.read_text()]

# Statements of every shape that a template or the emitter writes, NAME of any length.
STATEMENTS = [
    "NAME(a, b.c, d[:2])",
    "_kernel[(rows, 3)](NAME, x.contiguous(), a * b, num_warps=4)",
    "x = NAME(a, b, 0 if a is None else b)",
    "self.x, y = f(NAME, g(h(1), [2, 3]))  # [B, T]",
    "x = f(NAME)  # a | b",
    "NAME, second, third = torch.a_function_of_several(a, b)  # [B, T]",
    'NAME("a, (b", f"{c}, {d(1)}")',
    "return NAME(a, b)",
    "for p in (NAME, b):\n    pass",
    "for p in (NAME, b, c, d):\n    pass",
    "def f(NAME, b: int = 3) -> tuple[int, int]:\n    return f",
    "def f(self, *, NAME: Tensor | None, **factory: Any):\n    return f",
    "def f(NAME):\n    return f",
    'NAMES = ("NAME", "b")',
    'NAMES = {"NAME": "b", "c": "d"}',
    "x = a + NAME * (b - c) - d",
    "x = a * NAME * (1.0 + b * (c + d)) / e",
    "x = (a + NAME) * (b - c * (d + e))",
    "x += f(NAME, b, c)",
    "x = a * f(NAME, b, c=d)",
    "x = NAME * f(a, b, c=d)",
    "from .reference import NAME, b, c",
    "x = f((NAME, B, C, DDDDDDDDDDDDDDDDDDDD, E)[(i - 1) % 7](i, **factory) for i in range(1, LAYERS))",
    "x = f((NAME if i < 1 else B if i % 6 == 5 else CCCCCCCCCC)(i, **factory) for i in range(1, LAYERS))",
    'x = {\n    "a": [Stored(f"NAME.{x}", 2 * B, transposed=True, stacked=True, name="bbbbbbbbbbbb")],\n}',
    'CACHED = {"k": (NAME, 1), "v": (2, 3)}',
    'x = {\n    "a": [Stored("NAME", 1)],\n}',
    'x = {\n    "a": [Stored("NAME", 1), Stored("b", rows)],\n}',
    'x = {\n    "a": [Stored("NAME", 1), Stored("b", rows), Stored("c", 2)],\n}',
    'x = {\n    "a": [Stored(f"NAME.{x}", 2 * B), Stored("b.NAME", rows, stacked=True)],\n}',
    "return NAME, b if NAME else None, f(c, d), [g(e)]",
    "return a, b, NAME(c, d)",
    "return a, NAME(c, d)",
    "x = [f(NAME) for a, b in zip(c, d)]",
    '"""A docstring of NAME(a, b)."""',
    "# NAME(a, b)\nx = 1",
]


@pytest.mark.parametrize("path", few([*STANDARD, *FAMILIES], 3), ids=lambda path: path.stem)
def test_generated_files_are_as_black_leaves_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without black, for every model: with it a build takes twice as long.  The last one's are compared.

    Packages have most statements in common; those that are new are compared, at the depth where they stand.
    What lies between statements is compared in generated/, see test_goldens.py.
    """
    monkeypatch.setattr(render, "by_black", _no_black)
    spec = compiler.read_spec_file(path)
    files: dict[str, str] = {}
    for program in compiler.lower_models(spec, spec.models):
        compilation = compiler.compile_program(program, spec.rules)
        files = compiler.package_files(compilation, Origin("a.arch", "a", "cuda"))
    for name, text in files.items():
        assert "\n\n\n\n" not in text, name
        for statement in _statements(text) if name.endswith(".py") else ():
            if _with_zeros(statement) not in _compared:
                _compared.add(_with_zeros(statement))
                assert by_black(statement) == statement, name


def test_inputs_that_have_sizes_need_no_black(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of fixed sizes are checked by statements that no other package has."""
    monkeypatch.setattr(render, "by_black", _no_black)
    compilation = compile_model(
        "arch A() { forward(x: float[B, T, 8]) { return silu(x) } } model a = A()", "a"
    )
    text = compiler.package_files(compilation, Origin("a.arch", "a", "cuda"))["inputs.py"]
    assert "isinstance(d, str)" in text
    assert by_black(text) == text


def test_only_the_part_with_an_unknown_shape_is_left_to_black(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole is as black lays it out."""
    long = "    return x[" + " + ".join(["name"] * 30) + "]"
    parts = ['"""A module."""\n\nimport a', "@a.b\ndef f(x):\n    return x", f"def g(x):\n{long}", "Y = f(1)"]
    text = "\n\n\n".join(parts) + "\n"
    given: list[str] = []
    monkeypatch.setattr(render, "by_black", lambda part: given.append(part) or by_black(part))
    assert render.format_python(text) == by_black(text)
    assert given == [parts[2]]


def _no_black(text: str) -> str:
    long = [line for line in text.splitlines() if len(line) > LINE_LENGTH]
    raise AssertionError(f"black is needed for one of these: {long}")


_compared: set[str] = set()


def _with_zeros(code: str) -> str:
    """The same for numbers of the same length, which black lays out alike."""
    return re.sub("[0-9]", "0", code)


def _statements(text: str) -> Iterator[str]:
    """Each statement, of a compound one what opens it, in a class for each block that it stands in."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt) or isinstance(node, ast.Try) or _is_beside(node, lines):
            continue
        first, depth = _first_line(node), node.col_offset // 4
        indent = "    " * depth
        code = [f"{'    ' * level}class A:" for level in range(depth)]
        if lines[first].lstrip().startswith("elif "):
            code += [f"{indent}if x:", f"{indent}    pass"]
        body = getattr(node, "body", [])
        if body and not _is_beside(body[0], lines):
            code += [*lines[first : _first_line(body[0])], f"{indent}    pass"]
        else:
            code += lines[first : node.end_lineno]
        yield "\n".join(code) + "\n"


def _is_beside(node: ast.stmt, lines: list[str]) -> bool:
    """Whether it stands on the line of what it is the body of, as `...` does."""
    return bool(lines[node.lineno - 1][: node.col_offset].strip())


def _first_line(node: ast.stmt) -> int:
    """From 0, decorators included."""
    return min(each.lineno for each in (node, *getattr(node, "decorator_list", []))) - 1


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_statements_of_every_length(statement: str, depth: int) -> None:
    """On both sides of each length where another layout begins, ours is black's, or left to black."""
    lengths = range(1, 125)
    texts = [_nested(statement.replace("NAME", "n" * length), depth) for length in lengths]
    laid_out = [_laid_out(text) for text in texts]
    shapes = [ours.count("\n") for ours in laid_out]
    assert sum(map(bool, laid_out)) > 40
    for place, (text, ours) in enumerate(zip(texts, laid_out, strict=True)):
        beside = shapes[max(place - 1, 0) : place + 2]
        if ours and (place % 10 == 0 or len({*beside}) > 1):
            assert ours == by_black(ours if "#" in statement else text)


def _laid_out(text: str) -> str:
    """Nothing where it is left to black."""
    try:
        return lay_out(text)
    except UnknownShapeError:
        return ""


def _nested(statement: str, depth: int) -> str:
    """The statement in the body of so many classes."""
    lines = [f"{'    ' * level}class A:" for level in range(depth)]
    lines += ["    " * depth + line for line in statement.split("\n")]
    return "\n".join(lines) + "\n"


def test_a_comment_that_makes_a_line_too_long_goes_above_it() -> None:
    code = f"    x = {'f' * 90}(a)"
    assert lay_out(f"if y:\n{code}  # what it is about\n") == f"if y:\n    # what it is about\n{code}\n"


def test_parts_of_statements_and_unknown_shapes_are_left_to_black() -> None:
    for statement in (
        f"x = {'a' * 90} + {'b' * 90}",
        f"f({'a' * 130})",
        f"x = ({'a' * 120},)",
        f"{'a' * 121}(",
    ):
        with pytest.raises(UnknownShapeError):
            lay_out(statement)


@pytest.mark.parametrize(
    ("path", "name"),
    [(FAMILIES[0].with_name("kimi_linear.arch"), "model.py"), (SPECS / "mamba2.arch", "kernels.py")],
)
def test_nothing_is_a_second_name_alone(path: Path, name: str) -> None:
    """The result of two ways, or a gradient that is complete already, keeps the name that it has."""
    spec = compiler.read_spec_file(path)
    *_, program = compiler.lower_models(spec, spec.models)
    text = compiler.package_files(
        compiler.compile_program(program, spec.rules), Origin("a.arch", "a", "cuda")
    )[name]
    assert not re.findall(r"^ +(branch|d\w+) = [a-zA-Z]\w*(?=$|  #)", text, re.MULTILINE)
