"""What a package does not take is refused with a text that says where, what, and what would be taken."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from archc.ir.program import most_tokens
from archc.verification.packages import import_package
from tests.support import SPECS, build, compile_model

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"
TOKENS = torch.arange(18).view(2, 9)

both = pytest.mark.parametrize("kind", ["Model", "Reference"])


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


@pytest.fixture(scope="module")
def models(package: ModuleType) -> dict[str, Any]:
    return {kind: getattr(package, kind)() for kind in ("Model", "Reference")}


@both
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((TOKENS[0],), "tokens must be int64 [B, T], not int64 [9]"),
        ((TOKENS[None],), "tokens must be int64 [B, T], not int64 [1, 2, 9]"),
        ((TOKENS.float(),), "tokens must be int64 [B, T], not float32 [2, 9]"),
        ((TOKENS.tolist(),), "tokens must be int64 [B, T], not list"),
        ((TOKENS, TOKENS[:, :4] > 0), "padding must be bool [2, 9], not bool [2, 4]"),
        ((TOKENS, torch.ones(2, 9)), "padding must be bool [2, 9], not float32 [2, 9]"),
        ((TOKENS.to("meta"),), "tokens must be on cpu as the model is, not on meta"),
        ((TOKENS, (TOKENS > 8).to("meta")), "padding must be on cpu as the model is, not on meta"),
        ((TOKENS + 150,), "160 is looked up in a table of 160 rows"),
        ((TOKENS - 1,), "-1 is looked up in a table of 160 rows"),
    ],
)
def test_tokens_and_padding(models: dict[str, Any], kind: str, given: tuple[Any, ...], said: str) -> None:
    options = {"padding": given[1]} if len(given) > 1 else {}
    for call in (models[kind], models[kind].log_probs, partial(models[kind].generate, max_new_tokens=2)):
        with pytest.raises((ValueError, IndexError), match=re.escape(said)):
            call(given[0], **options)


@both
@pytest.mark.parametrize(
    ("labels", "weights", "said"),
    [
        (TOKENS[:, :4], None, "labels must be int64 [2, 9], not int64 [2, 4]"),
        (TOKENS.int(), None, "labels must be int64 [2, 9], not int32 [2, 9]"),
        (TOKENS - 1, None, "labels must be from 0 to 159, or -100 where none counts, not -1"),
        (TOKENS + 145, None, "not 160"),
        (TOKENS, torch.ones(2, 9, device="meta"), "weights must be on cpu as the model is, not on meta"),
        (TOKENS, torch.ones(9), "int64 or bool [2, 9], not float32 [9]"),
    ],
)
def test_labels_and_weights(models: dict[str, Any], kind: str, labels: Any, weights: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models[kind].loss(TOKENS, labels, weights=weights)


def test_a_loss_needs_as_many_tokens_as_it_looks_ahead_and_one(models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 2 tokens"):
        models["Model"].loss(TOKENS[:, :1], TOKENS[:, :1])
    with pytest.raises(ValueError, match="at least 4 tokens"):
        models["Model"].loss(TOKENS[:, :3], TOKENS[:, :3], ahead=3)
    with pytest.raises(ValueError, match=r"ahead must be a whole number, at least 0, not -1"):
        models["Model"].loss(TOKENS, TOKENS, ahead=-1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be a whole number, at least 0, not -1"),
        ({"max_new_tokens": 2.5}, "not 2.5"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"temperature": "warm"}, "temperature must be at least 0 and top_p in (0, 1], not 'warm' and 1.0"),
        ({"top_p": None}, "not 0.0 and None"),
        ({"seed": 0.5}, "seed must be a whole number of 64 bits, or None, not 0.5"),
        ({"seed": 1 << 64}, "not 18446744073709551616"),
        ({"top_k": 0}, "top_k must be a whole number, at least 1, or None, not 0"),
        ({"top_k": 2.0}, "not 2.0"),
        ({"eos": []}, "eos must be a token or a list of tokens, from 0 to 159, not []"),
        ({"eos": "."}, "not '.'"),
        ({"eos": [3, 160]}, "from 0 to 159, not [3, 160]"),
        ({"tokens": TOKENS[:, :0]}, "tokens must not be empty"),
        ({"padding": TOKENS > 8}, "padding must leave a real token in every sequence"),
    ],
)
def test_requests_of_generate(models: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models["Model"].generate(**{"tokens": TOKENS, "max_new_tokens": 2, **options})


def test_what_generate_need_not_do(models: dict[str, Any]) -> None:
    assert torch.equal(models["Model"].generate(TOKENS, max_new_tokens=0), TOKENS)


@pytest.mark.parametrize("sizes", [(2, -1), (-1, 2), (2, 2.5)])
def test_sizes_of_a_cache(models: dict[str, Any], sizes: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=f"whole numbers, not {sizes[0]} sequences of {sizes[1]} tokens"):
        models["Model"].new_cache(*sizes)


@both
def test_caches(package: ModuleType, models: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """Of another dtype, device, batch or model; one of the same model with other weights is as good."""
    model, make = models[kind], getattr(package, kind)
    mamba = getattr(build(SPECS / "mamba2.arch", "mamba2_tiny", tmp_path), kind)
    half = make(dtype=torch.bfloat16).new_cache(2, 9)
    for taker, wrong, said in [
        (model, half, "cache must be in torch.float32 as the model is, not in torch.bfloat16"),
        (model, make(device="meta").new_cache(2, 9), "cache must be on cpu as the model is, not on meta"),
        (model, model.new_cache(3, 9), "the cache is for a batch of 3, not of 2"),
        (model, mamba().new_cache(2, 9), "cache must be one of this model's new_cache"),
        (model, [], "cache must be one of this model's new_cache"),
        (mamba(), mamba(dtype=torch.float64).new_cache(2, 9), "cache must be in torch.float32"),
        (mamba(), mamba().new_cache(3, 9), "the cache is for a batch of 3, not of 2"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)):
            taker(TOKENS, cache=wrong)
    torch.testing.assert_close(model(TOKENS, cache=make().new_cache(2, 9)), model(TOKENS))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0, 1], "rows must be int64 [N], not list"),
        (torch.tensor([True, False]), "rows must be int64 [N], not bool [2]"),
        (torch.tensor(1), "not int64 []"),
        (torch.tensor([0, 2]), "rows must be from 0 to 1, the sequences of the cache, not 2"),
        (torch.tensor([-1]), "not -1"),
        (torch.tensor([0], device="meta"), "rows must be on cpu as the cache is, not on meta"),
    ],
)
def test_rows_of_a_cache(models: dict[str, Any], rows: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models["Model"].new_cache(2, 9).take(rows)


@both
def test_weights_in_shards(package: ModuleType, kind: str) -> None:
    model = getattr(package, kind)()
    next(model.parameters()).device_mesh = None
    with pytest.raises(ValueError, match=r"sharded.*register_fsdp_forward_method"):
        model.loss(TOKENS, TOKENS)


def test_more_tokens_than_positions(tmp_path: Path) -> None:
    """Told before anything is written: on a GPU, a look-up outside of a table would end the process."""
    model = build(SPECS / "gpt2.arch", "gpt2_tiny", tmp_path, {"context": "12"}).Model()
    said = "13 tokens, but the model has positions for 12"
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match=said):
        model.generate(TOKENS, max_new_tokens=5)
    assert model.generate(TOKENS, max_new_tokens=4).shape == (2, 13)
    cache = model.new_cache(1, 20)
    model(torch.zeros(1, 12, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)


FRONT = """
arch Front(d = 8) {
  forward(x: float[B, T, d]) {
    x = preceded(x, parameter([2, d]) as learned)
    return label = linear(first_token(x + embedding(positions(x), 12, d) as places), 3) as head
  }
}

model front = Front()
"""


def test_learned_tokens_are_not_counted_where_too_many_are_given(tmp_path: Path) -> None:
    compilation = compile_model(FRONT, "front")
    assert most_tokens(compilation.reference) == 10
    model = import_package(compilation, tmp_path).Model()
    model(torch.zeros(1, 10, 8))
    with pytest.raises(ValueError, match="11 x, but the model has positions for 10"):
        model(torch.zeros(1, 11, 8))


def test_inputs_of_all_kinds(tmp_path: Path) -> None:
    """A vector for each token, a number for each sequence, under any name, and a second sequence."""
    spec = """
    arch Inputs(d = 8) {
      forward(x: float[B, T, d], model: float[B, 1, 1], marks: bool[B, T], other: [B, U]) {
        y = embedding(other, 9, d) as table
        return a = x + model + unsqueeze(cast_like(marks, x)), b = linear(y, d) as proj
      }
    }
    model inputs = Inputs()
    """
    model = build(spec, "inputs", tmp_path).Model()
    good = torch.zeros(2, 3, 8), torch.zeros(2, 1, 1), torch.ones(2, 3).bool(), torch.zeros(2, 5).long()
    model(*good)
    for place, wrong, said in [
        (0, torch.zeros(2, 3, 7), "float64 [2, 3, 8], not float32 [2, 3, 7]"),
        (0, torch.zeros(2, 3, 8).long(), "not int64 [2, 3, 8]"),
        (1, torch.zeros(3, 1, 1), "[2, 1, 1], not float32 [3, 1, 1]"),
        (2, torch.ones(2, 3), "marks must be bool [2, 3], not float32 [2, 3]"),
        (3, torch.zeros(3, 5).long(), "other must be int64 [2, 5], not int64 [3, 5]"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)):
            model(*good[:place], wrong, *good[place + 1 :])
