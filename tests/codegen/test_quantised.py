"""Checkpoints as they are published, in float8 or in MXFP4, come as the numbers that they stand for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import _convert_moe_packed_tensors

from archc.verification.packages import stored_tensors
from tests.support import SPECS, build, scramble

SPARSE = {"deepseek_v3": {"kv_rank": "130"}, "qwen3_next": {"value_dim": "34"}}


@pytest.fixture(scope="module", params=SPARSE)
def sparse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Widths that are no multiples of a block."""
    name, settings = request.param, {"d": "136", **SPARSE[request.param]}
    return build(SPECS / f"{name}.arch", f"{name}_tiny", tmp_path_factory.mktemp("fp8"), settings)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    settings = {"d": "64", "d_ff": "32"}
    return build(SPECS / "gpt_oss.arch", "gpt_oss_tiny", tmp_path_factory.mktemp("mxfp4"), settings)


def saved(package: ModuleType, folder: Path) -> dict[str, Tensor]:
    model = package.Model(dtype=torch.bfloat16)
    scramble(model)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def blocks_of(matrix: Tensor) -> list[tuple[slice, slice]]:
    rows, columns = (range(0, size, 128) for size in matrix.shape)
    return [(slice(r, r + 128), slice(c, c + 128)) for r in rows for c in columns]


def test_float8(sparse: ModuleType, tmp_path: Path) -> None:
    tensors = saved(sparse, tmp_path)
    truth: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        truth[name] = stored[name] = tensor
        if tensor.dim() == 2 and "embed" not in name:
            grid = [-(-size // 128) for size in tensor.shape]
            scale = torch.rand(grid) + 0.5
            stored[name] = tensor.to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
            truth[name] = stored[name].float()
            for (rows, columns), factor in zip(blocks_of(tensor), scale.flatten(), strict=True):
                truth[name][rows, columns] *= factor
    save_file(stored, tmp_path / "model.safetensors")
    for dtype in (torch.float32, None):
        model = sparse.Model.from_pretrained(tmp_path, dtype=dtype)
        held = dict(stored_tensors(model))
        assert held["lm_head.weight"].dtype == (dtype or torch.bfloat16)
        assert all(torch.equal(held[name], each.to(held[name].dtype)) for name, each in truth.items())
    name = next(name for name in stored if name.endswith("_scale_inv") and len(stored[name]) > 1)
    save_file({**stored, name: stored[name][1:].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"wrong shape:\n    {name}: is \[1, \d\], must be \[2, \d\]"):
        sparse.Model.from_pretrained(tmp_path)


def test_mxfp4(stacked: ModuleType, tmp_path: Path) -> None:
    stored = saved(stacked, tmp_path)
    truth = dict(stored)
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, rows = stored.pop(name).shape
        blocks = torch.randint(
            0, 256, (experts, rows, width // 32, 16), generator=generator, dtype=torch.uint8
        )
        scales = torch.randint(118, 130, blocks.shape[:-1], generator=generator, dtype=torch.uint8)
        stored[f"{name}_blocks"], stored[f"{name}_scales"] = blocks, scales
        truth[name] = _convert_moe_packed_tensors(blocks, scales)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, tmp_path / "model.safetensors")
    held = dict(stored_tensors(stacked.Model.from_pretrained(tmp_path)))
    assert held.keys() == truth.keys()
    assert all(torch.equal(held[name], each) for name, each in truth.items())
    del stored[next(name for name in stored if name.endswith("_scales"))]
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="missing"):
        stacked.Model.from_pretrained(tmp_path)
