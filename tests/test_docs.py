"""docs/language.md: its examples compile, its mistakes are told so, its tables are the code's.

`python -m tests.test_docs` writes the tables and the mistakes again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path

import pytest

from archc import compiler
from archc.codegen.emit import Origin
from archc.errors import SpecError
from archc.frontend import arithmetic, limits
from archc.frontend.callees import QUERIES, TIED_TO, name_of, parameters_of, settings_of
from archc.frontend.resolve import Loader, Reporter
from archc.ir.op import OPS, REQUIRED, Attr, Op
from archc.ir.records import RECORDS, Record, attribute_text
from archc.verification.packages import check_package
from tests.support import ROOT, SPECS, compile_model

PAGE = ROOT / "docs" / "language.md"
EXAMPLE = re.compile(r"(<!-- faulty -->\n)?```arch\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
TABLE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
EXAMPLES = [match.groups() for match in EXAMPLE.finditer(PAGE.read_text())]


def op_signature(op: Op) -> str:
    """`rms_norm(x, eps, weight = true, ...)`."""
    operands = [o.name + " = none" * o.optional for o in op.data_operands] if not op.variadic else ["..."]
    settings = [_setting(name, attr) for name, attr in settings_of(op).items()]
    tied = [f"{TIED_TO.name} = none"] if op.weights else []
    return f"{op.name}({', '.join([*operands, *settings, *tied])})"


def _setting(name: str, attr: Attr) -> str:
    return name if attr.default is REQUIRED else f"{name} = {attribute_text(attr.default)}"


def record_signature(record: type[Record]) -> str:
    given = [
        f.name if f.default is MISSING else f"{f.name} = {attribute_text(f.default)}" for f in fields(record)
    ]
    return f"{record.kind}({', '.join(given)})" if given else record.kind


def _rows(pairs: Iterator[tuple[str, str]], head: str) -> str:
    lines = [f"| {head} | |", "|---|---|"]
    lines += [f"| `{what}` | {meaning.replace('|', chr(92) + '|')} |" for what, meaning in pairs]
    return "\n".join(lines) + "\n"


def _meaning(doc: str | None) -> str:
    """The first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())


def _ops() -> Iterator[tuple[str, str]]:
    for op in OPS.values():
        if not op.internal:
            weights = ", ".join(f"`{weight.name}`" for weight in op.weights if weight.name)
            yield op_signature(op), _meaning(op.doc) + _words(op) + (
                f" Weights: {weights}." if weights else ""
            )


def _words(op: Op) -> str:
    """What settings may be that are one of some words."""
    words = {name: attr.kind.choices for name, attr in settings_of(op).items() if attr.kind.choices}
    return "".join(
        f" `{name}` is {' or '.join(f'`{word}`' for word in each)}." for name, each in words.items()
    )


def _functions() -> Iterator[tuple[str, str]]:
    for function in (*arithmetic.BUILTINS.values(), *QUERIES):
        given = "..." if function.variadic else ", ".join(p.name for p in parameters_of(function))
        yield f"{name_of(function)}({given})", function.doc


def _records() -> Iterator[tuple[str, str]]:
    for record in RECORDS.values():
        text = " ".join(inspect.cleandoc(record.__doc__ or "").split())
        yield record_signature(record), text


def _blocks() -> Iterator[tuple[str, str]]:
    """Blocks, with the comment above each."""
    for name in ("prelude", "std"):
        module = Loader(Reporter()).load(SPECS / f"{name}.arch")
        assert module is not None
        lines = module.source.lines
        for block in module.blocks.values():
            comment = lines[block.span.line - 2].removeprefix("# ")
            head = lines[block.span.line - 1 :]
            opening = next(number for number, line in enumerate(head) if line.endswith("{"))
            text = " ".join(line.strip() for line in head[: opening + 1])
            signature = text.replace("( ", "(").replace(", )", ")")
            yield signature.removeprefix("block ").removesuffix(" {"), comment


def _limits() -> Iterator[tuple[str, str]]:
    for line in inspect.getsource(limits).splitlines():
        if found := re.match(r"(MAX_\w+) = .*#\s*(.*)", line):
            yield f"{getattr(limits, found[1]):,}", found[2]


TABLES: dict[str, Callable[[], str]] = {
    "ops": lambda: _rows(_ops(), "op"),
    "functions": lambda: _rows(_functions(), "function"),
    "records": lambda: _rows(_records(), "record"),
    "blocks": lambda: _rows(_blocks(), "block"),
    "limits": lambda: _rows(_limits(), "at most"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_codes(name: str) -> None:
    shown = {match[1]: match[2] for match in TABLE.finditer(PAGE.read_text())}
    assert shown[name] == TABLES[name](), "run `python -m tests.test_docs`"


def told(text: str) -> str:
    """What is printed about a faulty spec."""
    with pytest.raises(SpecError) as caught:
        compiler.check(compiler.read_spec_text(text, "spec.arch"))
    return f"{caught.value}\n"


@pytest.mark.parametrize(("faulty", "text", "expected"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples(faulty: str | None, text: str, expected: str | None) -> None:
    if faulty:
        assert told(text) == expected, "run `python -m tests.test_docs`"
        return
    spec = compiler.read_spec_text(text, "spec.arch")
    assert compiler.check(spec) > 0
    for program in compiler.lower_models(spec, spec.models):
        compilation = compiler.compile_program(program, spec.rules)
        assert compiler.package_files(compilation, Origin("spec.arch", program.name, "cuda"))


@pytest.mark.parametrize("model", ["prefixed", "scored", "positioned"])
def test_examples_of_attention_hold(model: str) -> None:
    """Full, cached, padded and in training, against the meaning of their ops in float64."""
    (text,) = (text for _, text, _ in EXAMPLES if f"model {model} = " in text)
    outcomes = list(check_package(compile_model(text, model)))
    assert outcomes
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_there_are_examples_of_everything() -> None:
    text = "".join(example[1] for example in EXAMPLES)
    for word in (
        "import",
        "arch",
        "model",
        "block",
        "forward",
        "for",
        "if",
        "fuse",
        "expect",
        "ignore",
        "tied_to",
    ):
        assert re.search(rf"\b{word}\b", text), word


def test_links_inside_of_the_page_lead_somewhere() -> None:
    page = PAGE.read_text()
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)", page, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= headings


def _with_message(match: re.Match[str]) -> str:
    if not match[1]:
        return match[0]
    return f"{match[1]}```arch\n{match[2]}```\n\n```text\n{told(match[2])}```"


def main(page: Path = PAGE) -> None:
    text = EXAMPLE.sub(_with_message, page.read_text())
    table = partial(TABLE.sub, lambda m: f"<!-- table: {m[1]} -->\n{TABLES[m[1]]()}<!-- end -->")
    page.write_text(table(text))


if __name__ == "__main__":
    main()
