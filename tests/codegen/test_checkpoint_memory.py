"""What loading a checkpoint holds at most: the model, and one tensor of the files."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support import SPECS, build

SHARDS = 3
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive: what ops make, and what is read from mapped files."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._made: dict[StorageWeakRef, int] = {}
        self._read: list[tuple[weakref.ref[Tensor], int]] = []
        self._mapped: set[int] = set()
        self._reads = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self._reads:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and not leaf.is_meta:
                    storage = leaf.untyped_storage()
                    if storage.data_ptr() not in self._mapped:
                        self._made[StorageWeakRef(storage)] = storage.nbytes()
            self._look()
        return result

    def _look(self) -> None:
        self._made = {made: size for made, size in self._made.items() if not made.expired()}
        self._read = [(read, size) for read, size in self._read if read() is not None]
        self.peak = max(self.peak, sum(self._made.values()) + sum(size for _, size in self._read))

    def reading(self, file: Path, **options: Any) -> Any:
        """A file as `safe_open` opens it, whose tensors are counted as long as they are alive."""
        handle = safe_open(file, **options)

        def get_tensor(name: str) -> Tensor:
            self._reads = True
            tensor: Tensor = handle.get_tensor(name)
            self._reads = False
            self._mapped.add(tensor.untyped_storage().data_ptr())
            self._read.append((weakref.ref(tensor), tensor.nbytes))
            self._look()
            return tensor

        return type("File", (), {"get_tensor": staticmethod(get_tensor), "keys": handle.keys,
                                 "get_slice": handle.get_slice})  # fmt: skip


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def _in_float8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored[name] = tensor
        if tensor.dim() == 2 and "embed" not in name and "head" not in name:
            stored[name] = tensor.to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = torch.ones([-(-size // 128) for size in tensor.shape])
    return stored


def _in_mxfp4(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stored = dict(tensors)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, rows = stored.pop(name).shape
        stored[f"{name}_blocks"] = torch.zeros(experts, rows, width // 32, 16, dtype=torch.uint8)
        stored[f"{name}_scales"] = torch.full((experts, rows, width // 32), 127, dtype=torch.uint8)
    return stored


# The spec, its tiny model, changed settings, and how a checkpoint is written.
CASES: dict[str, tuple[str, str, dict[str, str], Callable[[dict[str, Tensor]], dict[str, Tensor]]]] = {
    "packed": ("smollm2", "smollm2_tiny", {}, _plain),
    "experts apart": ("qwen3_moe", "qwen3_moe_tiny", {}, _plain),
    "float8": ("deepseek_v3", "deepseek_v3_tiny", {"d": "512", "d_ff": "1024"}, _in_float8),
    "mxfp4": ("gpt_oss", "gpt_oss_tiny", {"d": "128", "d_ff": "128", "layers": "4"}, _in_mxfp4),
}


@pytest.fixture(params=CASES)
def package(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleType:
    """A package, and beside it a checkpoint of its model in shards."""
    spec, model, settings, stored_as = CASES[request.param]
    package = build(SPECS / f"{spec}.arch", model, tmp_path, settings)
    package.Model(dtype=torch.bfloat16).save_pretrained(tmp_path / "whole")
    tensors = stored_as(load_file(tmp_path / "whole" / "model.safetensors"))
    names = sorted(tensors)
    shards = {f"model-{n}.safetensors": names[n::SHARDS] for n in range(SHARDS)}
    (tmp_path / "shards").mkdir()
    for file, own in shards.items():
        save_file({name: tensors[name].contiguous() for name in own}, tmp_path / "shards" / file)
    index = {name: file for file, own in shards.items() for name in own}
    text = json.dumps({"weight_map": index})
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(text)
    return package


def _loaded(package: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Bytes held at most, those of the model, and of the largest tensor, as numbers of float32."""
    checkpoint = package.checkpoint
    memory = Memory()
    monkeypatch.setattr(checkpoint, "safe_open", memory.reading)
    with memory:
        model = package.Model.from_pretrained(folder)
    largest = max(part.numel() for _, part in model._parts())
    return memory.peak, sum(parameter.nbytes for parameter in model.parameters()), 4 * largest


def test_no_more_than_the_model_and_a_tensor(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak, held, largest = _loaded(package, tmp_path / "shards", monkeypatch)
    assert held <= peak <= held + largest
    assert largest < held / 2, "a tensor is most of the model: nothing is shown"


def test_what_holds_more_is_found(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = package.checkpoint._Reader
    read_into, tensors = reader.read_into, list[Tensor]()

    def read_and_keep(self: Any, target: Tensor, name: str) -> None:
        read_into(self, target, name)
        tensors.append(target.clone())

    monkeypatch.setattr(reader, "read_into", read_and_keep)
    peak, held, largest = _loaded(package, tmp_path / "shards", monkeypatch)
    assert peak > held + largest


@pytest.mark.skipif(not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="no large pages")
def test_weights_ask_for_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each large one that lies in memory, made or loaded, once before it is written and once afterwards."""
    package = build(SPECS / "smollm2.arch", "smollm2_tiny", tmp_path, {"vocab": "100000"})
    checkpoint = package.checkpoint
    ask = checkpoint.use_large_pages
    asked: list[list[Tensor]] = []

    def use_large_pages(parameters: Iterable[torch.nn.Parameter]) -> None:
        held = list(parameters)
        asked.append([weight.clone() for weight in held])
        ask(held)

    monkeypatch.setattr(checkpoint, "use_large_pages", use_large_pages)
    model = package.Model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    loaded = package.Model.from_pretrained(tmp_path / "saved")
    _, made, _, read = asked
    assert all(torch.equal(*pair) for pair in zip(made, read, strict=True))
    for each in (model, loaded):
        weight = each.embed_tokens
        assert _advised(weight.data_ptr() + weight.nbytes // 2)
        before = weight.clone()
        ask([weight, torch.nn.Parameter(torch.empty(9 << 20, device="meta"))])
        assert torch.equal(weight, before)


def _advised(address: int) -> bool:
    """Whether the mapping around an address has been asked to be of large pages, by Linux's own word."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            first, last = (int(end, 16) for end in word.split("-"))
            inside = first <= address < last
        elif inside and word == "VmFlags:":
            return "hg" in line.split()
    return False
