"""Names and strings of a spec stay that: nothing of them runs, or hides what generated code uses."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from pathlib import Path

import pytest
import torch

from archc import builder
from archc.errors import ArchcError
from tests.support import SPECS, build, few

PLANTED = "planted()"
FILE_NAMES = [
    f'a"""\n{PLANTED}\n"""b.arch',
    f"a\n{PLANTED}\n#.arch",
    f"a\r{PLANTED}.arch",
    f"a\u2028{PLANTED}.arch",
    f'";{PLANTED};".arch',
    f"';{PLANTED};'.arch",
    f"\\{PLANTED}\\.arch",
    f"{{{PLANTED}}}.arch",
    f"a-->{PLANTED}<!--.arch",
    f"a; {PLANTED}; é.arch",
]
# Names that generated modules use themselves, that every module has, or that are Python's own.
HOSTILE = [
    *(
        "self",
        "torch",
        "nn",
        "F",
        "Tensor",
        "Any",
        "kernels",
        "reference",
        "runtime",
        "Model",
        "Reference",
        "Stored",
    ),
    *(
        "Cache",
        "cache",
        "past",
        "steps",
        "padding",
        "tokens",
        "span",
        "spans",
        "visible",
        "cos",
        "sin",
        "layer",
        "layers",
        "factory",
    ),
    *(
        "dtype",
        "device",
        "super",
        "range",
        "print",
        "None_",
        "__init__",
        "__class__",
        "__dict__",
        "_parameters",
    ),
    *(
        "forward",
        "training",
        "to",
        "train",
        "stored",
        "reset_parameters",
        "generate",
        "loss",
        "new_cache",
        "CACHED",
    ),
    *(
        "class",
        "lambda",
        "def",
        "import_",
        "async",
        "yield",
        "pass",
        "D",
        "VOCAB",
        "tl",
        "triton",
        "jit",
        "row",
    ),
]


def planted_calls(code: str) -> list[str]:
    """Uses of what was planted, in code or inside of f-strings."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    return [name.id for name in names if f"{name.id}()" == PLANTED]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_names_of_files(name: str, tmp_path: Path) -> None:
    spec = tmp_path / name
    spec.write_text((SPECS / "qwen3.arch").read_text())
    (job,) = builder.jobs((spec,), tmp_path / "out", "qwen3_tiny", "cuda", ())
    for file, text in builder.files_of(job).items():
        if file.endswith(".py"):
            assert planted_calls(text) == [], file
            assert text.split("\n")[1].startswith("# digest ")
        elif file.endswith(".cpp"):
            assert all(_is_comment(line) for line in re.split(r"[\r\n]", text) if PLANTED in line), file
        else:
            assert text.index("-->") > text.index("digest")


def _is_comment(line: str) -> bool:
    """Of C++, alone on its line: a backslash at the end would take in the next."""
    return line.startswith("//") and not line.endswith("\\")


@pytest.mark.parametrize("value", ["layers=2\nplanted()", "layers=\r2", "layers=2\u2028", "layers=2\0"])
def test_settings_of_several_lines_are_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ArchcError, match="on one line"):
        builder.jobs((SPECS / "llama3.arch",), tmp_path, "llama3_tiny", "cuda", (value,))


def test_strings_are_quoted(tmp_path: Path) -> None:
    pattern = "a'; planted(); '{planted()}\\\\n*"
    text = f"""
    arch A(d = 8) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 30, d) as wte  # \"\"\" planted()
        return linear(x, 30) as "head-1.planted"
      }}
      ignore "{pattern}"
    }}
    model a = A()
    """
    package = build(text, "a", tmp_path)
    folder = Path(str(package.__file__)).parent
    assert all(planted_calls(path.read_text()) == [] for path in folder.glob("*.py"))
    ignored = package.checkpoint.IGNORED
    assert ignored == (pattern,)


@pytest.mark.parametrize("name", [*few(HOSTILE, 18), "fixed_span", "drop"])
def test_names_that_generated_code_uses(name: str, tmp_path: Path) -> None:
    """As a parameter, a block, variables and a path, whatever of it the language takes."""
    plain = "v_" + name.strip("_")
    path = f'"{name}"' if keyword.iskeyword(name) or name in ("as", "if", "in") else name
    text = f"""
    arch A(d = 12, {plain} = 30) {{
      block {plain}_(x) {{
        h = rms_norm(x, 1e-5) as {path}
        return linear(silu(linear(h, 2 * d) as gate) * linear(h, 2 * d) as up, d) as down
      }}
      forward(tokens: [B, T]) {{
        {"w" + name} = embedding(tokens, {plain}, d) as {path}
        for i in 0..2 as layers {{
          {"w" + name} = {"w" + name} + {plain}_({"w" + name}) as mlp
        }}
        return linear({"w" + name}, {plain}) as head
      }}
    }}
    model a = A()
    """
    _runs(text, tmp_path)
    if not keyword.iskeyword(name):
        try:
            _runs(text.replace(plain, name).replace("w" + name, name), tmp_path)
        except ArchcError as error:
            refusal = str(error)
            assert name in refusal


_FUSIONS = "torch tl triton jit wraps native reference tanh rows like range Tensor".split()  # noqa: SIM905


def test_names_of_fusions(tmp_path: Path) -> None:
    """A fused op hides nothing that kernels.py reads by name."""
    fusions = [f"fuse {name}(a) {{ y = {n} * tanh(a) return y }}" for n, name in enumerate(_FUSIONS, 2)]
    layers = [f"x = linear({n} * tanh(x), 12) as layer_{n}" for n in range(2, 2 + len(_FUSIONS))]
    text = f"""
    {"".join(fusions)}
    arch A() {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 30, 12) as wte
        {" ".join(layers)}
        return linear(x, 30) as head
      }}
    }}
    model a = A()
    """
    package = build(text, "a", tmp_path)
    defined = ast.parse(Path(str(package.__file__)).with_name("kernels.py").read_text()).body
    names = [each.name for each in defined if isinstance(each, ast.FunctionDef)]
    assert len({*names} & {f"{name}_2" for name in _FUSIONS}) == len(_FUSIONS)
    assert not {*names} & {*dir(builtins), *_FUSIONS} - {"tanh"}
    _runs(text, tmp_path)


def _runs(text: str, folder: Path) -> None:
    package = build(text, "a", folder)
    tokens = torch.arange(6).reshape(2, 3)
    model, reference = package.Model(), package.Reference()
    model.save_pretrained(folder / "saved")
    reference = package.Reference.from_pretrained(folder / "saved")
    torch.testing.assert_close(model(tokens), reference(tokens))
    assert model.generate(tokens, max_new_tokens=2).shape == (2, 5)
    assert model.loss(tokens, tokens).isfinite()
