"""What a generated package promises its users, for `Model` and `Reference` alike."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from archc.verification.packages import stored_tensors
from tests.support import SPECS, build, scramble

both = pytest.mark.parametrize("kind", ["Model", "Reference"])
VOCABULARY = 160


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "llama3.arch", "llama3_tiny", tmp_path_factory.mktemp("interface"))


@pytest.fixture(scope="module")
def checkpoint(package: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = package.Model()
    scramble(model)
    model.save_pretrained(folder)
    return folder


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCABULARY, (batch, length), generator=generator)


@both
def test_a_meta_model_takes_no_memory_and_runs_on_shapes(package: ModuleType, kind: str) -> None:
    model = getattr(package, kind)(device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta for parameter in model.parameters())
    logits = model(torch.empty(2, 5, dtype=torch.int64, device="meta"))
    assert logits.shape == (2, 5, VOCABULARY)
    assert logits.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="a model on meta has shapes but no weights"):
        model.generate(torch.empty(2, 5, dtype=torch.int64, device="meta"))


def test_a_meta_model_is_not_saved(package: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights on meta have shapes but no values"):
        package.Model(device="meta").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@both
def test_start_values_let_training_begin(package: ModuleType, kind: str) -> None:
    """The first loss is that of a guess, and a few steps lower it."""
    model = getattr(package, kind)()
    given = tokens(4, 16)
    first = float(model.loss(given, given).detach())
    assert abs(first - math.log(VOCABULARY)) < 0.2
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        loss = model.loss(given, given)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.7 * first


def test_a_tied_model_has_one_embedding(package: ModuleType) -> None:
    model = package.Model()
    assert "lm_head.weight" not in dict(stored_tensors(model))
    assert not any("lm_head" in name for name, _ in model.named_parameters())


def test_the_package_needs_no_archc(package: ModuleType) -> None:
    folder = Path(str(package.__file__)).parent
    program = (
        "import sys; sys.modules['archc'] = None; import llama3_tiny, torch; "
        "print(llama3_tiny.Model()(torch.zeros(1, 3, dtype=torch.int64)).shape)"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=True)
    assert f"[1, 3, {VOCABULARY}]" in result.stdout


@both
def test_a_file_a_folder_and_shards_give_the_same(
    package: ModuleType, kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    cls = getattr(package, kind)
    whole = cls.from_pretrained(checkpoint / "model.safetensors")
    stored = load_file(checkpoint / "model.safetensors")
    names = sorted(stored)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: stored[name] for name in part}, tmp_path / f"part{number}.safetensors")
        index.update(dict.fromkeys(part, f"part{number}.safetensors"))
    place = tmp_path / "model.safetensors.index.json"
    place.write_text(json.dumps({"weight_map": index}))
    for path in (checkpoint, str(tmp_path), place):
        other = cls.from_pretrained(path)
        for (name, mine), (_, theirs) in zip(stored_tensors(whole), stored_tensors(other), strict=True):
            assert torch.equal(mine, theirs), name


@both
def test_what_is_saved_in_shards_is_read_again(
    package: ModuleType, kind: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = package.checkpoint
    monkeypatch.setattr(module, "_SHARD_BYTES", 20_000)
    cls = getattr(package, kind)
    model = cls.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = cls.from_pretrained(tmp_path)
    for (name, mine), (_, theirs) in zip(stored_tensors(model), stored_tensors(again), strict=True):
        assert torch.equal(mine, theirs), name


def test_what_is_saved_last_is_what_is_read(
    package: ModuleType, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file after shards, and shards after one file, in one folder."""
    module = package.checkpoint
    for value, limit in ((1.0, 20_000), (2.0, 10**9), (3.0, 20_000)):
        monkeypatch.setattr(module, "_SHARD_BYTES", limit)
        model = package.Model.from_pretrained(checkpoint)
        with torch.no_grad():
            model.norm.fill_(value)
        model.save_pretrained(tmp_path)
        assert set(package.Model.from_pretrained(tmp_path).norm.tolist()) == {value}
        assert (tmp_path / "model.safetensors").exists() == (limit > 20_000)


@both
def test_dtype_is_the_checkpoints_or_what_is_asked(package: ModuleType, kind: str, tmp_path: Path) -> None:
    cls = getattr(package, kind)
    cls(dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in cls.from_pretrained(tmp_path).parameters()} == {torch.bfloat16}
    wide = cls.from_pretrained(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in wide.parameters()} == {torch.float64}


def test_weights_that_lose_digits_are_told(package: ModuleType, tmp_path: Path) -> None:
    """The first tensor says in what the model is held; one in a wider dtype is not rounded in silence."""
    package.Model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    stored["model.norm.weight"] = torch.full_like(stored["model.norm.weight"], 1.001, dtype=torch.float32)
    save_file(stored, file)
    with pytest.warns(
        UserWarning, match=r"bfloat16, the dtype of the model: model\.norm\.weight \(torch\.float32\);"
    ):
        rounded = package.Model.from_pretrained(tmp_path)
    assert rounded.norm.dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = package.Model.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(wide.norm, stored["model.norm.weight"])


def test_a_tensor_in_two_files_is_told(package: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copy(checkpoint / "model.safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"is in two files, .*first\.safetensors and .*second\.safetensors"):
        package.Model.from_pretrained(tmp_path)


@both
def test_a_checkpoint_that_does_not_fit_is_told_by_names(
    package: ModuleType, kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    stored = load_file(checkpoint / "model.safetensors")
    stored["model.layers.0.mlp.extra.weight"] = torch.zeros(3)
    stored["model.layers.1.self_attn.q_proj.weight"] = torch.zeros(5, 7)
    del stored["model.norm.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit this model") as caught:
        getattr(package, kind).from_pretrained(tmp_path)
    message = str(caught.value)
    assert "1 missing:\n    model.norm.weight" in message
    assert "1 unexpected:\n    model.layers.0.mlp.extra.weight" in message
    assert "model.layers.1.self_attn.q_proj.weight: is [5, 7], must be [72, 72]" in message


def test_a_tied_tensor_may_be_repeated_but_not_differ(
    package: ModuleType, checkpoint: Path, tmp_path: Path
) -> None:
    stored = load_file(checkpoint / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, tmp_path / "model.safetensors")
    package.Model.from_pretrained(tmp_path)
    stored["lm_head.weight"] += 1
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from"):
        package.Model.from_pretrained(tmp_path)


def test_files_that_are_not_there_are_named(package: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no safetensors file in {tmp_path}, which is empty"):
        package.Model.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        FileNotFoundError, match=r"only pytorch_model\.bin; save weights of another format as"
    ):
        package.Model.from_pretrained(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="there is no file or folder some/model, and nothing is downloaded"
    ):
        package.Model.from_pretrained("some/model")
    index = {"weight_map": {"a": "absent.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        package.Model.from_pretrained(tmp_path)


@both
def test_labels_of_minus_100_do_not_count(package: ModuleType, kind: str) -> None:
    model = getattr(package, kind)()
    given = tokens()
    labels = given.clone()
    labels[:, :5] = -100
    logits = model(given)[:, :-1]
    counted = [(row, place) for row in range(2) for place in range(4, 8)]
    losses = [
        torch.nn.functional.cross_entropy(logits[row, place], given[row, place + 1]) for row, place in counted
    ]
    torch.testing.assert_close(model.loss(given, labels), torch.stack(losses).mean())


@both
def test_a_cache_keeps_its_memory_and_refuses_too_much(package: ModuleType, kind: str) -> None:
    model = getattr(package, kind)()
    cache = model.new_cache(2, 6)
    before = [tensor.data_ptr() for layer in cache.layers for tensor in layer.values()]
    with torch.no_grad():
        model(tokens(2, 4), cache=cache)
        model(tokens(2, 2), cache=cache)
    assert cache.length == 6
    assert [tensor.data_ptr() for layer in cache.layers for tensor in layer.values()] == before
    with pytest.raises(ValueError, match="holds 6 tokens: 6 are in it, 1 more"):
        model(tokens(2, 1), cache=cache)
    with pytest.raises(ValueError, match="a batch of 2, not of 3"):
        model(tokens(3, 1), cache=model.new_cache(2, 6))


def test_kernels_are_launched_where_their_tensors_are(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all ops launch so: Triton takes the current device, whatever its tensors are on."""
    current = [0]

    class OnSecond(torch.Tensor):
        is_cuda, device = True, torch.device("cuda:1")

        def get_device(self) -> int:
            return 1

    @contextmanager
    def entered(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", entered)
    kernels, x = package.kernels, torch.zeros(1)
    launch = kernels._on_device(lambda *_: current[-1])
    assert [launch(None, x), launch(None, x.as_subclass(OnSecond)), current[-1]] == [0, 1, 0]
    ops = [value for value in vars(kernels).values() if isinstance(value, kernels._Op)]
    assert {inspect.unwrap(op.launch) is not op.launch for op in ops} == {True}


@both
def test_greedy_tokens_are_the_likeliest(package: ModuleType, kind: str, checkpoint: Path) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    prompt = tokens(2, 5)
    expected = prompt
    with torch.no_grad():
        for _ in range(4):
            expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, max_new_tokens=4), expected)


@both
def test_sampling_follows_its_seed_and_the_nucleus(package: ModuleType, kind: str, checkpoint: Path) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    prompt = tokens(2, 5)

    def draw(**options: Any) -> torch.Tensor:
        found: torch.Tensor = model.generate(prompt, max_new_tokens=8, **options)
        return found

    assert torch.equal(draw(temperature=2.0, seed=1), draw(temperature=2.0, seed=1))
    assert not torch.equal(draw(temperature=2.0, seed=1), draw(temperature=2.0, seed=2))
    assert torch.equal(draw(temperature=2.0, top_p=1e-6, seed=1), draw())
    for temperature in (1e-42, 1e-36, 1e-20):  # logits that float32 can divide by it or not
        assert torch.equal(draw(temperature=temperature, seed=1), draw())
    for options in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature must be"):
            draw(**options)


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(package: ModuleType) -> None:
    decoding = package.decoding
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(2000, 1)
    for top_p, allowed in ((0.5, {0}), (0.6, {0, 1}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        drawn = decoding.Sampler(1.0, top_p, 0, logits.device)(logits)
        assert set(drawn.tolist()) == allowed
    drawn = decoding.Sampler(1.0, 0.6, 0, logits.device)(logits)
    shares = torch.bincount(drawn, minlength=4) / 2000
    torch.testing.assert_close(shares[:2], torch.tensor([0.625, 0.375]), atol=0.05, rtol=0)


def test_few_tokens_may_be_drawn(package: ModuleType) -> None:
    """The nucleus is that of the top_k tokens alone: 0.3 of 0.5 + 0.3 is needed, 0.3 of 1 is not."""
    decoding = package.decoding
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().repeat(2000, 1)
    for top_k, top_p, allowed in ((1, 1.0, {1}), (2, 1.0, {1, 3}), (9, 1.0, {0, 1, 2, 3}), (2, 0.55, {1})):
        drawn = decoding.Sampler(1.0, top_p, 0, logits.device, top_k)(logits)
        assert set(drawn.tolist()) == allowed


def test_draws_without_a_seed_follow_pytorch(package: ModuleType) -> None:
    model, prompt = package.Model(), tokens(2, 5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn = [model.generate(prompt, 8, temperature=1.0) for _ in range(2)]
    assert not torch.equal(*drawn)
    torch.set_rng_state(state)
    assert torch.equal(model.generate(prompt, 8, temperature=1.0), drawn[0])
    before = torch.get_rng_state()
    model.generate(prompt, 2)
    model.generate(prompt, 2, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@both
@pytest.mark.parametrize("count", [1, 8])
def test_tokens_are_streamed_as_they_come(package: ModuleType, kind: str, count: int) -> None:
    model, prompt, seen = getattr(package, kind)(), tokens(2, 5), []
    free = model.generate(prompt, 8, temperature=1.0, seed=0)
    end = int(free[0, 7])
    for options in ({}, {"eos": end}):
        seen.clear()
        text = model.generate(prompt, count, temperature=1.0, seed=0, stream=seen.append, **options)
        assert torch.equal(torch.stack(seen, 1), text[:, 5:])


@both
def test_a_sequence_ends_with_eos_and_is_filled_with_it(
    package: ModuleType, kind: str, checkpoint: Path
) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    prompt = tokens(2, 5)
    free = model.generate(prompt, max_new_tokens=8)
    first, second = int(free[0, 6]), int(free[1, 7])
    ended = model.generate(prompt, max_new_tokens=8, eos=[first, second])
    assert ended.shape[1] <= free.shape[1]
    for row in range(2):
        ends = [place for place in range(5, ended.shape[1]) if int(ended[row, place]) in (first, second)]
        assert ends
        assert torch.equal(ended[row, : ends[0] + 1], free[row, : ends[0] + 1])
        assert set(ended[row, ends[0] + 1 :].tolist()) <= {first}
