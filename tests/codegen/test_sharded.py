"""A model whose weights are sharded over processes by FSDP: the loss and gradients of the whole model."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import SPECS, build, scramble

TINY = {
    "gemma3_tiny": "gemma3",  # a layer's last norm is computed in the next layer
    "qwen3_moe_tiny": "qwen3_moe",
    "qwen3_next_tiny": "qwen3_next",
}

# Lengths differ between the two processes, the number of labels does not.
DOCUMENTS = torch.tensor([[0] * 2 + [1] * 7, [0] * 1 + [1] * 8, [0] * 4 + [1] * 5, [0] * 5 + [1] * 4])


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", TINY)
def test_two_processes(name: str, recomputed: bool, tmp_path: Path) -> None:
    package = build(SPECS / f"{TINY[name]}.arch", name, tmp_path)
    model = package.Model(dtype=torch.float64)
    scramble(model)
    tokens = torch.randint(0, 160, (4, 9))
    (model.loss(tokens, tokens) + model.loss(tokens, tokens, documents=DOCUMENTS)).backward()
    text = model.generate(tokens[::2], 8)
    ends = [int(text[0, 11])]  # the other process goes on
    texts = [model.generate(one, 8, eos=ends) for one in tokens[::2].split(1)]
    assert texts[0].shape[1] < texts[1].shape[1] == 17
    torch.save((model.state_dict(), _gradients(model), tokens, texts, ends), tmp_path / "expected.pt")
    torch.multiprocessing.spawn(_run, (package.__name__, recomputed, tmp_path), nprocs=2)


def _run(rank: int, package: str, recomputed: bool, folder: Path) -> None:
    """One of two processes, which has half of the sequences."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    weights, expected, tokens, texts, ends = torch.load(folder / "expected.pt")
    kind = importlib.import_module(package).Model
    model = kind(dtype=torch.float64)
    model.load_state_dict(weights)
    _shard(model, recomputed)
    mine, documents = tokens.chunk(2)[rank], DOCUMENTS.chunk(2)[rank]
    (model.loss(mine, mine) + model.loss(mine, mine, documents=documents)).backward()
    found = {path.replace("_checkpoint_wrapped_module.", ""): g for path, g in _gradients(model).items()}
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(found[path], gradient, msg=path)
    assert torch.equal(model.generate(mine[:1], 8, eos=ends), texts[rank])
    _save(model, kind, weights, folder / "saved")
    torch.distributed.destroy_process_group()


def _shard(model: Any, recomputed: bool) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if recomputed:
        kinds = {type(layer) for layer in model.layers}
        apply_activation_checkpointing(model, check_fn=lambda module: type(module) in kinds)
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    register_fsdp_forward_method(model, "loss")
    register_fsdp_forward_method(model, "generate")


def _save(model: Any, kind: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """A sharded model is saved by the way that its refusal tells."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    with pytest.raises(ValueError, match="get_model_state_dict"):
        model.save_pretrained(folder)
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank() == 0:
        whole = kind(dtype=torch.float64, device="meta")
        whole.load_state_dict(gathered, assign=True)
        whole.save_pretrained(folder)
        saved = kind.from_pretrained(folder).state_dict()
        torch.testing.assert_close(saved, weights, rtol=0, atol=0)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    gradients = {path: weight.grad for path, weight in model.named_parameters() if weight.grad is not None}
    return {path: getattr(g, "full_tensor", lambda g=g: g)() for path, g in gradients.items()}
