"""The command line: exit status 0 good, 1 the input is at fault, 2 wrong usage; never a traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archc.cli import main
from archc.verification import kernels
from archc.verification.chips import CHIPS
from tests.support import ROOT, SPECS, check_refused

LLAMA = str(SPECS / "llama3.arch")
TOO_LONG = "x" * 300  # for a file's name


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_spec_may_be_called_as_the_one_that_it_imports(tmp_path: Path) -> None:
    spec = tmp_path / "llama.arch"
    spec.write_text("import llama\nmodel mine = Llama(d = 8, layers = 1, heads = 2, d_ff = 8, vocab = 9)\n")
    result = run("check", str(spec))
    assert (result.exit_code, result.output) == (0, f"{spec}: 1 model, no mistakes\n")


def test_help_is_everywhere_with_an_example() -> None:
    assert "Example" in run("-h").output
    assert "..." not in run("-h").output.partition("Commands:")[2]  # each is told in a whole sentence
    for name in main.commands:
        result = run(name, "-h")
        assert result.exit_code == 0
        assert "Example" in result.output, name
        assert f"archc {name}" in result.output, name


def test_commands_of_the_contract_exist() -> None:
    assert {"check", "build", "ir", "explain", "verify", "import", "fmt", "analyze", "diff"} <= set(
        main.commands
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("check",),
        ("build", LLAMA, "--target", "tpu"),
        ("build", "--model", "llama3_8b"),
        ("ir",),
        ("build", "--bogus"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere.arch"), "no such spec: nowhere.arch"),
        (("check", "nowhere/llama3.arch"), f"archc's own is {LLAMA}"),
        (("check", str(SPECS)), "is a folder: name the specs in it"),
        (("build", str(SPECS / "lama3.arch")), "did you mean `llama3.arch`?"),
        (("build", LLAMA, "--model", "llama3_9b"), "did you mean `llama3_8b`?"),
        (("build", str(SPECS / "std.arch")), "defines no model"),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "layers"), "--set takes name=value"),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "layer=2"), "did you mean `layers`?"),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "layers=2 +"), "--set:1:13"),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "mask=causal"), "it has d, layers, heads,"),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "act=sillu"), "did you mean `silu`?"),
        (
            ("build", LLAMA, "--model", "llama3_8b", "--set", "d=heads"),
            "do not see the parameters of `Llama`",
        ),
        (("build", LLAMA, "--model", "llama3_8b", "--set", "d=100"), "not divisible"),
        (("build", "-o", "/nowhere/at/all"), "no generated package"),
        (
            ("build", LLAMA, "--model", "llama3_tiny", "-o", TOO_LONG),
            f"cannot write {TOO_LONG}/llama3_tiny: ",
        ),
        (("build", "-o", TOO_LONG), f"cannot use {TOO_LONG}: File name too long"),
        (("diff", f"{TOO_LONG}:a", f"{LLAMA}:llama3_8b"), f"cannot use {TOO_LONG}:a: File name too long"),
        (("import", TOO_LONG), f"cannot read {TOO_LONG}: File name too long"),
        (("ir", LLAMA, "--model", "llama3_8b", "--after", "fus"), "did you mean `fuse`?"),
    ],
)
def test_faulty_input(arguments: tuple[str, ...], message: str) -> None:
    check_refused(run(*arguments), message)


def test_check_reports_every_file(tmp_path: Path) -> None:
    (tmp_path / "wrong.arch").write_text("model a = Nothing()")
    (tmp_path / "broken.arch").write_text("arch A( {")
    result = run("check", str(tmp_path / "wrong.arch"), LLAMA, str(tmp_path / "broken.arch"))
    assert result.exit_code == 1
    assert "unknown arch `Nothing`" in result.output
    assert "broken.arch:1:9" in result.output
    assert "no mistakes" in result.output


def test_binary_rubbish_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "rubbish.arch").write_bytes(bytes(range(256)))
    result = run("check", str(tmp_path / "rubbish.arch"))
    assert result.exit_code == 1
    assert "not a text file" in result.output
    assert "rubbish.arch is not a text file in UTF-8" in run("fit", str(tmp_path / "rubbish.arch")).output


def test_a_link_to_nothing_is_no_suggestion_for_itself(tmp_path: Path) -> None:
    (tmp_path / "link.arch").symlink_to("nowhere")
    result = run("check", str(tmp_path / "link.arch"))
    assert result.output.strip() == f"no such spec: {tmp_path / 'link.arch'}"


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pipes among files")
def test_only_files_are_looked_into_for_a_name(tmp_path: Path) -> None:
    """A pipe beside a spec would be waited for until somebody writes into it."""
    os.mkfifo(tmp_path / "pipe.arch")
    (tmp_path / "a.arch").write_text(
        "arch A() { forward(x: float[B, T, 8]) { return nowhere(x) } } model a = A()"
    )
    command = [sys.executable, "-m", "archc", "check", str(tmp_path / "a.arch")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert "unknown name `nowhere`" in result.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_any_system_and_a_mark_before_the_text(tmp_path: Path, end: str) -> None:
    """Else a comment in a file of an old Mac would be all of it."""
    path = tmp_path / "spec.arch"
    text = "\ufeff# a comment\narch A(d = 8) { forward(x: [B, T]) { return z } }\n"
    path.write_bytes(text.replace("\n", end).encode())
    result = run("check", str(path))
    assert (result.exit_code, f"{path}:2:45: error: unknown name `z`" in result.output) == (1, True)


def test_an_output_that_is_full_is_told() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "archc", "check", LLAMA]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "cannot write the output: No space left on device\n")


def test_an_interrupt_during_the_imports_is_told_in_a_word() -> None:
    interrupted = """
import sys
from archc.__main__ import run

class Interrupt:
    def find_spec(name, *_):
        if name == "archc.cli.tuning":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
run()
"""
    done = subprocess.run([sys.executable, "-c", interrupted], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "\nAborted!\n")


def test_a_process_ends_without_taking_apart_what_it_imported() -> None:
    """That of PyTorch and Triton takes as long as to compile several kernels."""
    ending = """
import atexit, sys
from archc.__main__ import run

atexit.register(print, "taken apart")
run()
"""
    command = [sys.executable, "-c", ending, "check", "nowhere.arch"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "no such spec: nowhere.arch")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of it in other words")
def test_a_reader_that_is_gone_ends_a_command() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "archc", "check", LLAMA]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="it keeps folders that are in use")
def test_the_folder_that_a_command_runs_in_may_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = run("build", LLAMA, "--model", "llama3_tiny", "-o", "out")
    assert (result.exit_code, result.output) == (1, "cannot write out: No such file or directory\n")
    assert run("build", LLAMA, "--model", "llama3_tiny", "-o", str(tmp_path / "out")).exit_code == 0


def test_build_and_rebuild(tmp_path: Path) -> None:
    arguments = ("build", LLAMA, "--model", "llama3_tiny", "-o", str(tmp_path), "--set", "layers=5")
    first = run(*arguments)
    assert first.exit_code == 0
    assert "model.py" in first.output
    model = tmp_path / "llama3_tiny" / "model.py"
    assert "LAYERS = 5" in model.read_text()
    assert stat.S_IMODE(model.stat().st_mode) == 0o644
    assert "up to date" in run(*arguments).output
    assert "up to date" in run("build", "-o", str(tmp_path)).output  # by what the header records
    assert run("build", "--check", "-o", str(tmp_path)).exit_code == 0


def test_edited_files_are_kept(tmp_path: Path) -> None:
    arguments = ("build", LLAMA, "--model", "llama3_tiny", "-o", str(tmp_path))
    assert run(*arguments).exit_code == 0
    model = tmp_path / "llama3_tiny" / "model.py"
    edited = model.read_text() + "\n# mine\n"
    model.write_text(edited)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "edited by hand" in result.output
    assert model.read_text() == edited
    assert run(*arguments, "--force").exit_code == 0
    assert "# mine" not in model.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="it limits no file's size")
def test_a_package_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Its first files would be of a newer model than those that a full disk has no room for."""
    import resource

    arguments = ("build", str(SPECS / "gpt2.arch"), "--model", "gpt2_tiny", "-o", str(tmp_path))
    assert run(*arguments).exit_code == 0
    before = {path.name: path.read_text() for path in (tmp_path / "gpt2_tiny").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["kernels.py"]) // 2, limits[1]))
    try:
        result = run(*arguments, "--set", "layers=5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.exit_code, "File too large" in result.output) == (1, True)
    assert before == {path.name: path.read_text() for path in (tmp_path / "gpt2_tiny").iterdir()}


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "llama3_tiny"
    folder.mkdir()
    (folder / "model.py").write_text("precious = 1\n")
    (folder / "notes.md").write_text("mine\n")
    arguments = ("build", LLAMA, "--model", "llama3_tiny", "-o", str(tmp_path))
    assert run(*arguments).exit_code == 1
    assert (folder / "model.py").read_text() == "precious = 1\n"
    assert not (folder / "reference.py").exists()
    assert run(*arguments, "--force").exit_code == 0
    assert (folder / "notes.md").read_text() == "mine\n"


def test_a_file_that_is_no_longer_made_goes(tmp_path: Path) -> None:
    arguments = ("build", LLAMA, "--model", "llama3_tiny", "-o", str(tmp_path))
    assert run(*arguments).exit_code == 0
    folder = tmp_path / "llama3_tiny"
    kernels = (folder / "kernels.py").read_text()
    (folder / "old.py").write_text(kernels)
    (folder / "own.py").write_text("mine = 1\n")
    assert run("build", "--check", "-o", str(tmp_path)).exit_code == 1
    assert run(*arguments).exit_code == 0
    assert not (folder / "old.py").exists()
    assert (folder / "own.py").exists()


def test_ir_after_each_pass_differs_where_it_should() -> None:
    before = run("ir", LLAMA, "--model", "llama3_tiny", "--after", "frontend").output
    packed = run("ir", LLAMA, "--model", "llama3_tiny", "--after", "pack").output
    last = run("ir", LLAMA, "--model", "llama3_tiny").output
    assert "silu(" in before
    assert "q_proj.weight|" in packed
    assert "swiglu(" in last


def test_explain_tells_reasons_and_relaxations() -> None:
    output = run("explain", str(SPECS / "olmo2.arch"), "--model", "olmo2_tiny").output
    assert "fewer_roundings" in output
    assert "rms_norm_add" in output
    output = run("explain", str(SPECS / "t5.arch"), "--model", "t5_tiny").output
    assert "bias_relu" in output.partition("missed")[2]


def test_lines_stay_whole_where_no_terminal_says_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are searched by other programs, which would find no name that is parted or cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    olmo = str(SPECS / "olmo2.arch")
    (packed,) = re.findall(
        "^pack: .*gate_proj.*$", run("explain", olmo, "--model", "olmo2_tiny").output, re.MULTILINE
    )
    assert packed.endswith("are one linear")
    monkeypatch.setenv("COLUMNS", "60")
    assert packed not in run("explain", olmo, "--model", "olmo2_tiny").output


@pytest.mark.parametrize(
    ("bias", "told"),
    [
        (
            "query_bias(linear(x, 4) as b)",
            ["`attention` (spec.arch:5) of whole sequences is PyTorch's own ops"],
        ),
        ("key_bias(linear(x, 4) as b)", []),
        ("absolute(upcast(query - key))", []),
    ],
)
def test_explain_tells_where_attention_has_no_kernel(
    bias: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.arch").write_text(f"""arch A() {{
          forward(x: float[B, T, 32]) {{
            h = split_heads(x, 4)
            query, key = pairs(x)
            return merge_heads(attention(h, h, 2 * h, mask = causal, bias = {bias}))
          }}
        }}
        model a = A()""")
    output = " ".join(run("explain", "spec.arch").output.split())
    assert re.findall(r"no kernel: (.*?), for some queries", output) == told


def test_explain_tells_of_whole_sequences_nothing_that_only_few_new_tokens_meet() -> None:
    """With a bias by distance, attention of few tokens that absorbs has no kernel; that of others has."""
    spec = SPECS / "t5.arch"
    ops = run("ir", str(spec), "--model", "t5_tiny").output
    assert "shared_relative_attention(" in ops
    assert "no kernel: " not in run("explain", str(spec), "--model", "t5_tiny").output


@pytest.mark.parametrize(
    ("looks", "returned", "told"),
    [
        ("merge_heads(attention(h, h, h, mask = causal))", "x", []),
        ("reversed(x)", "x", ["`reverse_tokens` (spec.arch:5)"]),
        (
            "merge_heads(attention(h, h, h, mask = causal, bias = -near))",
            "x",
            ["`pair_positions` (spec.arch:3)"],
        ),
        ("reversed(x)", "last_token(x)", []),  # it takes no documents at all
    ],
)
def test_explain_tells_why_documents_do_not_stay_in_their_row(
    looks: str, returned: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.arch").write_text(f"""arch A() {{
          forward(x: float[B, T, 32]) {{
            query, key = pairs(positions(x))
            near, h = absolute(upcast(query - key)), split_heads(x, 4)
            x = x + {looks}
            return {returned}
          }}
        }}
        model a = A()""")
    done = run("explain", "spec.arch")
    assert done.exit_code == 0
    output = " ".join(done.output.split())
    assert re.findall(r"documents: .*?: (.*?) does not tell apart", output) == told


_OF_FEW_KERNELS = """
arch A() {
  forward(x: float[B, T, 64]) {
    for i in 0..2 as layers {
      h = rms_norm(x, 1e-6) as norm
      x = x + linear(silu(linear(h, 128) as gate) * linear(h, 128) as up, 64) as down
    }
    return rms_norm(x, 1e-6) as norm
  }
}
model a = A()
"""


def test_kernels_tells_what_each_takes_on_a_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    spec = tmp_path / "few.arch"
    spec.write_text(_OF_FEW_KERNELS)
    asked = ("kernels", str(spec), "--chip", "sm_80")
    told = json.loads(run(*asked, "--json").output)
    names = {each["kernel"] for each in told}
    assert {"_add_rms_norm_kernel", "_swiglu_backward_kernel"} <= names
    assert all(each["registers"] and each["breaches"] == [] for each in told)
    assert {"x_ptr": None} in [each["variant"] for each in told if each["kernel"] == "_add_rms_norm_kernel"]
    small = dataclasses.replace(CHIPS["sm_80"], shared=0)
    monkeypatch.setitem(CHIPS, "sm_80", small)
    result = run(*asked)
    assert result.exit_code == 1
    assert "bytes of shared memory, there are 0" in result.output


def test_a_process_that_compiles_nothing_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends while a thread of it is in Triton was aborted, after its message."""
    started: list[Any] = []
    monkeypatch.setattr(kernels, "Thread", lambda **options: started.append(options))
    assert run("kernels", "nowhere.arch").exit_code == 1
    assert started == []


def test_a_model_of_vectors_without_kernels(tmp_path: Path) -> None:
    """Nothing is off about kernels where there are none, and no vocabulary is told of."""
    spec = tmp_path / "plain.arch"
    spec.write_text("arch A() { forward(x: float[B, T, 24]) { return linear(x, 40) as p } }\nmodel a = A()")
    assert "0 kernels, none off" in run("kernels", str(spec), "--chip", "sm_90").output
    assert "vocabulary" not in run("analyze", str(spec)).output


def test_an_expectation_that_fails_says_why(tmp_path: Path) -> None:
    spec = tmp_path / "own.arch"
    spec.write_text("""arch A(d = 8) {
          expect fuse(swiglu)
          forward(tokens: [B, T]) {
            x = embedding(tokens, 9, d) as wte
            return silu(x) * (linear(x, d) as u)
          }
        }
        model a = A()
        """)
    result = run("build", str(spec), "-o", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "own.arch:2:" in result.output
    assert "the fusion did not fire" in result.output
    assert "reads" in result.output
    assert not (tmp_path / "out").exists()


def test_a_build_leaves_the_checkout_alone() -> None:
    assert not (ROOT / "archc" / "_data").exists()
