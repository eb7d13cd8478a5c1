"""What a package does not take is refused with a text that says where, what, and what would be taken."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import SPECS, build

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "llama3.arch", "llama3_tiny", tmp_path_factory.mktemp("refusals"))


@pytest.fixture(scope="module")
def checkpoint(package: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    package.Model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kept", [slice(0), slice(50), slice(-50), slice(8, None)])
def test_a_file_that_is_not_whole_is_named(
    package: ModuleType, checkpoint: Path, tmp_path: Path, kept: slice
) -> None:
    (tmp_path / WHOLE).write_bytes((checkpoint / WHOLE).read_bytes()[kept])
    with pytest.raises(ValueError, match=rf"{tmp_path / WHOLE} is no safetensors file, or only a part of"):
        package.Model.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 3}}', b"[" * 50_000]
)
def test_an_index_that_is_none_is_named(package: ModuleType, tmp_path: Path, text: bytes) -> None:
    (tmp_path / INDEX).write_bytes(text)
    with pytest.raises(ValueError, match=rf'{tmp_path / INDEX} must be JSON with a "weight_map"'):
        package.Model.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_are_floating_point(
    package: ModuleType, checkpoint: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    stored = load_file(checkpoint / WHOLE)
    save_file({**stored, NORM: stored[NORM].to(dtype)}, tmp_path / WHOLE)
    with pytest.raises(ValueError, match=rf"1 of a wrong dtype:\n    {NORM}: is \w+, must be F64 or F32 or"):
        package.Model.from_pretrained(tmp_path)


def test_other_files_beside_a_whole_checkpoint_are_not_read(
    package: ModuleType, checkpoint: Path, tmp_path: Path
) -> None:
    """Such as those of an adapter, or shards of an earlier save."""
    stored = load_file(checkpoint / WHOLE)
    save_file(stored, tmp_path / WHOLE)
    save_file({NORM: stored[NORM] + 1, "other": stored[NORM]}, tmp_path / "other.safetensors")
    assert torch.equal(package.Model.from_pretrained(tmp_path).norm, stored[NORM])


def test_a_save_that_fails_leaves_what_was_there(
    package: ModuleType, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the second shard is written: the first one is still that of the earlier save."""
    module = package.Model.from_pretrained.__func__.__globals__
    monkeypatch.setitem(module, "_SHARD_BYTES", 20_000)
    package.Model.from_pretrained(checkpoint).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    saved: list[Path] = []

    def save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        saved.append(path)
        if len(saved) > 1:
            raise module["SafetensorError"]("No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setitem(module, "save_file", save)
    with pytest.raises(OSError, match=f"cannot save to {tmp_path}: No space left"):
        package.Model().save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_no_folder(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="mine is a file"):
        package.Model().save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"
