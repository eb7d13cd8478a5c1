"""Mutated specs: whatever comes of them is a clean error or a package, in bounded time and memory."""

from __future__ import annotations

import ast
import functools
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archc import compiler
from archc.codegen.emit import Origin
from archc.errors import ArchcError, SpecError
from tests.frontend.golden import FOLDER, read
from tests.support import ROOT, SPECS

FAMILIES = ROOT / "tests" / "interop" / "families"
SOUND = [path.read_text() for path in (*sorted(SPECS.glob("*.arch")), *sorted(FAMILIES.glob("*.arch")))]
FAULTY = [case.files["spec.arch"] for path in sorted(FOLDER.glob("*.txt")) for case in read(path)]
TOKENS = re.compile(r'[A-Za-z_]\w*|[0-9][\w.]*|"[^"\n]*"|#[^\n]*|\s+|\*\*|\.\.|//|[=!<>]=|.', re.DOTALL)

# What is put in a token's place: words that mean something, and values at the edge of what is possible.
NUMBERS = ["0", "-1", "1", "2.5", "1e308", "1e-308", "9" * 30, "9223372036854775807", "1T", "128K", "1_000"]
WORDS = """
none true false in not and or if else for as return import expect arch block model forward fuse ignore tied_to
positions linear rms_norm split attention rotate self torch class lambda __import__ B T S i x d
( ) [ ] { } , ; : . .. = == ** * / // % - + @ # " ' \\ é "a.b" 0..10000 {i}.{i} ((x))
"""
STRANGE = [
    *(
        *NUMBERS,
        *WORDS.split(),
        "\0",
        "\u2028",
        "\t",
        "\r\n",
        '"""',
        "2 ** 2 ** 2 ** 2 ** 2",
        "as layers.{i}",
    ),
    *("a" * 200, "x" * 5000, "(" * 300, "[" * 300, "-" * 300, "1 + " * 500 + "1"),
]

SECONDS = 10  # of processor time; a spec of the corpus takes a tenth of one
MEGABYTES = 300


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A spec of the corpus with some of its tokens deleted, doubled, exchanged or replaced."""
    words = TOKENS.findall(draw(st.sampled_from(SOUND if draw(st.integers(0, 3)) else FAULTY)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 6]))):
        if words:
            draw(st.sampled_from(EDITS))(draw, words)
    return "".join(words)


def _place(draw: st.DrawFn, words: list[str], wanted: Callable[[str], bool] = bool) -> int:
    """The place of a token, of a kind where there are such."""
    places = [place for place, word in enumerate(words) if wanted(word)] or list(range(len(words)))
    return draw(st.sampled_from(places))


def _delete(draw: st.DrawFn, words: list[str]) -> None:
    place = _place(draw, words)
    del words[place : place + draw(st.integers(1, 8))]


def _double(draw: st.DrawFn, words: list[str]) -> None:
    place = _place(draw, words)
    words[place:place] = words[place : place + draw(st.integers(1, 40))]


def _swap(draw: st.DrawFn, words: list[str]) -> None:
    one, other = _place(draw, words, str.isidentifier), _place(draw, words, str.isidentifier)
    words[one], words[other] = words[other], words[one]


def _rename(draw: st.DrawFn, words: list[str]) -> None:
    """One name in the place of another: what is left is often a spec with another meaning."""
    words[_place(draw, words, str.isidentifier)] = words[_place(draw, words, str.isidentifier)]


def _renumber(draw: st.DrawFn, words: list[str]) -> None:
    place = _place(draw, words, lambda word: word[:1].isdigit())
    words[place] = draw(st.one_of(st.sampled_from(NUMBERS), st.integers(0, 200).map(str)))


def _replace(draw: st.DrawFn, words: list[str]) -> None:
    words[_place(draw, words)] = draw(st.sampled_from(STRANGE))


def _insert(draw: st.DrawFn, words: list[str]) -> None:
    words.insert(
        _place(draw, words), draw(st.one_of(st.sampled_from(STRANGE), st.text(min_size=1, max_size=20)))
    )


def _splice(draw: st.DrawFn, words: list[str]) -> None:
    donor = TOKENS.findall(draw(st.sampled_from(SOUND + FAULTY)))
    start, place = _place(draw, donor), _place(draw, words)
    words[place:place] = donor[start : start + draw(st.integers(1, 60))]


def _take_line(draw: st.DrawFn, words: list[str]) -> None:
    """Move a line elsewhere."""
    lines = "".join(words).splitlines(keepends=True)
    taken = lines.pop(draw(st.integers(0, len(lines) - 1)))
    lines.insert(draw(st.integers(0, len(lines))), taken)
    words[:] = TOKENS.findall("".join(lines))


# Those that leave the syntax as it is come more often: they get further.
EDITS = [_delete, _double, _replace, _insert, _splice, *[_swap, _take_line] * 2, *[_rename, _renumber] * 4]


@contextmanager
def bounded() -> Iterator[None]:
    """Fail on what takes too much of a processor's time, or of memory."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"{grown:.0f} MB more"


def drive(text: str) -> str:
    """Take a text as far as it goes; how far that is."""
    reached = "refused"
    try:
        spec = compiler.read_spec_text(text)
        compiler.check(spec)
        reached = "checked"
        for program in compiler.lower_models(spec, spec.models[:1]):
            compilation = compiler.compile_program(program, spec.rules)
            reached = "compiled"
            files = compiler.package_files(compilation, Origin("a.arch", program.name, "cuda"))
            for name, code in files.items():
                if name.endswith(".py"):
                    _parse(code)
            reached = "built"
    except SpecError as error:
        check_places(error, text)
    except ArchcError:
        pass
    return reached


_parse = functools.cache(ast.parse)  # packages have files in common


def check_places(error: SpecError, text: str) -> None:
    """Mistakes are told by places that exist."""
    assert error.mistakes
    for mistake in error.mistakes:
        assert mistake.text
        for span in (mistake.span, *(note.span for note in mistake.notes if note.span is not None)):
            if span.source.name == "<text>":
                assert 1 <= span.line <= text.count("\n") + 1
                assert span.column >= 1
    assert "Traceback" not in str(error)


@pytest.fixture(autouse=True)
def _no_constants_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn depends on no test that ran before.

    Hypothesis would take constants from every module there is, and read all packages that other tests have
    imported for them: the better part of a minute.
    """
    providers = sys.modules.get("hypothesis.internal.conjecture.providers")
    if hasattr(providers, "_get_local_constants"):  # in other releases, these tests take longer
        monkeypatch.setattr(providers, "_get_local_constants", lambda: providers._local_constants)


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=12, derandomize=True, **COMMON)
@given(mutated())
def test_mutated_specs(text: str) -> None:
    with bounded():
        drive(text)


@settings(max_examples=150, derandomize=True, **COMMON)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))))
def test_any_text(text: str) -> None:
    with bounded():
        drive(text)


@pytest.mark.slow
@settings(max_examples=20_000, **COMMON)
@given(mutated())
def test_mutated_specs_at_length(text: str) -> None:
    with bounded():
        drive(text)


@pytest.mark.slow
def test_the_corpus_itself_builds() -> None:
    """What is mutated reaches all of the compiler, so mutations do too."""
    some = SOUND[::3]
    assert [drive(text) for text in some].count("built") > len(some) // 2


def test_loops_in_loops_without_weights() -> None:
    """10,000 to the power of six iterations, of which nothing but the number matters."""
    opened = "".join(f"for {variable} in 0..n {{ " for variable in "abcdef")
    text = f"arch A(n = 10_000) {{ forward(x: float[B, T, 8]) {{ {opened} x = x * 2 {'} ' * 6} return x }} }}"
    with bounded():
        assert drive(f"{text} model a = A()") == "built"
