"""Golden files of mistakes: specs, each with the text that a person is to see.

    # title
    spec.arch's text
    --- file other.arch
    the text of another file beside it
    ---
    what is printed
    ===

`python -m tests.frontend.golden` writes them again.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from archc import compiler
from archc.errors import ArchcError, Mistake, SpecError

FOLDER = Path(__file__).parent / "mistakes"


@dataclass(frozen=True)
class Case:
    """One spec, the files beside it, and what is printed about it."""

    title: str
    files: dict[str, str]
    expected: str

    @property
    def text(self) -> str:
        parts = [
            text if name == "spec.arch" else f"--- file {name}\n{text}" for name, text in self.files.items()
        ]
        return f"# {self.title}\n{''.join(parts)}---\n{self.expected}"

    def told(self, folder: Path) -> tuple[str, tuple[Mistake, ...]]:
        """What is printed about the spec, laid down in a folder, and the mistakes in it."""
        for name, text in self.files.items():
            (folder / name).write_text(text)
        try:
            spec = compiler.read_spec_file(folder / "spec.arch", "spec.arch")
            compiler.check(spec)
            for program in compiler.lower_models(spec, spec.models):
                compiler.compile_program(program, spec.rules)
        except SpecError as error:
            return _without_folder(str(error), folder), error.mistakes
        except ArchcError as error:
            return _without_folder(str(error), folder), ()
        return "no mistakes\n", ()


def _without_folder(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "") + "\n"


def read(path: Path) -> list[Case]:
    """The cases of a golden file."""
    return [_case(text) for text in path.read_text().split("===\n")]


def _case(text: str) -> Case:
    title, _, rest = text.partition("\n")
    specs, _, expected = rest.partition("\n---\n")
    first, *others = f"{specs}\n".split("--- file ")
    files = {"spec.arch": first}
    for other in others:
        name, _, body = other.partition("\n")
        files[name] = body
    return Case(title.removeprefix("# "), files, expected)


def main() -> None:
    for path in sorted(FOLDER.glob("*.txt")):
        cases = []
        for case in read(path):
            with tempfile.TemporaryDirectory() as folder:
                cases.append(Case(case.title, case.files, case.told(Path(folder))[0]))
        path.write_text("===\n".join(case.text for case in cases))
        print(path.name, len(cases), file=sys.stderr)


if __name__ == "__main__":
    main()
