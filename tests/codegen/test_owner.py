"""What the owner of a package does with it besides: looks at it, shares what is saved, trains adapters."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.support import SPECS, build

FAMILIES = Path(__file__).parent.parent / "interop" / "families"
TOKENS = torch.arange(18).view(2, 9)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "llama3.arch", "llama3_tiny", tmp_path_factory.mktemp("owner"))


def test_whoever_may_read_the_folder_may_read_what_is_saved(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    package.Model().save_pretrained(tmp_path)
    assert {file.stat().st_mode for file in tmp_path.iterdir()} == {(tmp_path / "mine").stat().st_mode}
    assert {file.name for file in tmp_path.iterdir()} == {"mine", "model.safetensors"}


@pytest.mark.parametrize("place", ["mine", "mine/below"])
def test_no_folder_is_made_of_a_file(package: ModuleType, tmp_path: Path, place: str) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="/mine is a file: save_pretrained takes a folder"):
        package.Model().save_pretrained(tmp_path / place)


def test_a_package_that_is_imported_again_has_ops_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, after it was built again; models of before still compute."""
    old = build(SPECS / "qwen3_moe.arch", "qwen3_moe_tiny", tmp_path)
    for name in [name for name in sys.modules if name.startswith(old.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    new = importlib.import_module(old.__name__)
    assert new is not old
    model, again = old.Model(), new.Model()
    again.load_state_dict(model.state_dict())
    tokens = torch.tensor([[3, 1, 4]])
    torch.testing.assert_close(model(tokens), again(tokens), rtol=0, atol=0)


def test_print_shows_parameters_and_what_a_cache_holds(package: ModuleType) -> None:
    model = package.Model(device="meta")
    assert "(embed_tokens): [160, 72]" in repr(model)
    assert repr(model).count("(down_proj): [") == 1  # layers that are equal stand together
    assert repr(model.new_cache(2, 9)) == "<Cache: 2 sequences, 0 of 9 tokens, torch.float32, meta>"
    assert "<Cache: 1 sequence, " in repr(model.new_cache(1, 9))


@pytest.mark.parametrize("name", ["embed_tokens", "layers.0.qkv_proj"])
def test_what_the_checkpoint_has_no_place_for_is_not_lost(
    package: ModuleType, tmp_path: Path, name: str
) -> None:
    """Such as rows for new tokens: sizes are a package's own."""
    model = package.Model()
    module, _, own = name.rpartition(".")
    weight = model.get_parameter(name)
    setattr(model.get_submodule(module), own, nn.Parameter(torch.cat([weight, weight[:8]]).detach()))
    with pytest.raises(
        ValueError, match=rf"{own} \[{len(weight) + 8}, 72\] is larger than its tensors in the checkpoint"
    ):
        model.save_pretrained(tmp_path)
    assert not [*tmp_path.iterdir()]


def text_of(package: ModuleType, module: str) -> str:
    return (Path(package.__path__[0]) / f"{module}.py").read_text()


def test_sizes_keep_their_names(tmp_path: Path) -> None:
    """Whoever changes one of them at the top has changed it everywhere."""
    package = build(SPECS / "latent.arch", "latent_tiny", tmp_path, {"nope": "7"})
    for module, places in (("model", 2), ("reference", 1)):  # of few new tokens, and of many
        assert text_of(package, module).count("(NOPE, V_DIM)") == places
    package = build(SPECS / "deepseek_v2.arch", "deepseek_v2_tiny", tmp_path)
    assert "count=EXPERTS + SHARED, shared=SHARED)" in text_of(package, "model")
    package = build(SPECS / "recurrent_gemma.arch", "recurrent_gemma_tiny", tmp_path)
    assert text_of(package, "model").count("(HEADS, INNER // HEADS, INNER // HEADS, ") == 2


def test_a_heading_says_where_a_block_of_its_own_path_begins(tmp_path: Path) -> None:
    """The parts that it calls on the way have none."""
    package = build(SPECS / "qwen3_next.arch", "qwen3_next_tiny", tmp_path)
    assert text_of(package, "model").count("# DeltaNet: model.layers.{i}.linear_attn") == 1
    assert "# unit: " not in text_of(package, "reference")
    package = build(FAMILIES / "kimi_linear.arch", "kimi_linear", tmp_path)
    assert text_of(package, "model").count("# DeltaAttention: ") == 2  # in layers of two kinds


class LowRank(nn.Module):
    """A weight with a low-rank sum of its own, as adapters are."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def test_adapters_are_parametrizations(package: ModuleType, tmp_path: Path) -> None:
    """They train alone, decode with the model, and are merged into what is saved."""
    model = package.Model().requires_grad_(False)
    before = model(TOKENS)
    for layer in model.layers:
        for name in ("qkv_proj", "down_proj"):
            parametrize.register_parametrization(layer, name, LowRank(getattr(layer, name)))
    assert torch.equal(model(TOKENS), before)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):  # in the first, up is zero, and down has no part
        optimiser.zero_grad()
        model.loss(TOKENS, TOKENS).backward()
        assert len(trained) == 4 * len(model.layers)
        optimiser.step()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained)
    logits, text = model(TOKENS), model.generate(TOKENS, 4)
    assert not torch.equal(logits, before)
    for layer in model.layers:
        for name in ("qkv_proj", "down_proj"):
            parametrize.remove_parametrizations(layer, name)
    model.save_pretrained(tmp_path)
    loaded = package.Model.from_pretrained(tmp_path)
    assert torch.equal(loaded(TOKENS), logits)
    assert torch.equal(loaded.generate(TOKENS, 4), text)
