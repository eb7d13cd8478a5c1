"""Models with an encoder and a decoder: what is computed once, what a cache refuses, where tokens begin."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.ops.structure import KEEP
from archc.verification.packages import stored_tensors
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, compile_model, distance, scramble

START = 7  # of transformer_tiny
# Cross attention: of keys that are their own values, of heads too wide for a kernel over whole sequences, of
# heads too wide for any.
CROSS = {
    "shared": "attention(q, k, k, mask = full)",
    "wide": "attention(q, k, split_heads(linear(h, 2 * width) as v, 2), mask = full, softcap = 2.0)",
}
CROSS["wider"] = CROSS["wide"]
CROSSING = """
    arch A(width) {{
      forward(tokens: [B, T], decoder_tokens: [B, U] = 0) {{
        h = embedding(tokens, 160, 24) as encoder
        h = linear(rms_norm(h, 1e-6) as norm, 24) as encoded  # a norm that the encoder alone has
        x = embedding(decoder_tokens, 160, 24) as decoder
        for i in 0..2 as layers {{
          q = split_heads(linear(x, 2 * width) as q, 2)
          k = split_heads(linear(h, 2 * width) as k, 2)
          x = x + linear(merge_heads({cross}), 24) as o
        }}
        return linear(x, 160) as head
      }}
    }}
    model shared = A(width = 12)
    model wide = A(width = 272)
    model wider = A(width = 520)
"""
kinds = pytest.mark.parametrize("kind", ["Model", "Reference"])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "transformer.arch", "transformer_tiny", tmp_path_factory.mktemp("package"))


def made(package: ModuleType, kind: str) -> Any:
    torch.manual_seed(0)
    model = getattr(package, kind)(dtype=torch.float64)
    scramble(model)
    return model


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randint(160, (batch, length), generator=torch.Generator().manual_seed(length))


def test_a_keep_stands_where_the_decoder_reads_the_encoder() -> None:
    fused = compile_model(SPECS / "transformer.arch", "transformer_tiny").fused
    kept = [
        [fused_type.shape for fused_type in n.types] for g in fused.walk() for n in g.nodes() if n.op is KEEP
    ]
    assert kept == [[("B", "T", 36)], [("B", "T", 3, 12)], [("B", "T", 3, 12)]]


@kinds
def test_the_encoder_runs_once(package: ModuleType, kind: str) -> None:
    """After the first call its weights, and those of cross attention's keys, are not read again."""
    model, source, target = made(package, kind), tokens(9), tokens(6)
    with torch.no_grad():
        whole = model(source, target)
        cache = model.new_cache(2, 6)
        parts = [model(source, target[:, :2], cache=cache)]
        for name, tensor in stored_tensors(model):
            if "model.encoder." in name or "encoder_attn.k_proj" in name or "encoder_attn.v_proj" in name:
                tensor.fill_(float("nan"))
        parts += [model(None, target[:, 2:3], cache=cache), model(source, target[:, 3:], cache=cache)]
    assert distance(torch.cat(parts, 1), whole) < 1e-12


@kinds
@torch.no_grad()
def test_a_copy_of_a_cache_goes_on(package: ModuleType, kind: str) -> None:
    """It has what the first call computed."""
    model, source, target = made(package, kind), tokens(9), tokens(6)
    cache = model.new_cache(2, 6)
    model(source, target[:, :2], cache=cache)
    copies = copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))
    rest = model(None, target[:, 2:], cache=cache)
    for each in copies:
        assert torch.equal(model(None, target[:, 2:], cache=each), rest)


@kinds
@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("begun", [0, 2])
def test_sequences_taken_from_a_cache(package: ModuleType, kind: str, padded: bool, begun: int) -> None:
    """Each with its own sequence of the encoder: in another order, or all of one."""
    model, source, target, rows = made(package, kind), tokens(9), tokens(6, 3), torch.tensor([1, 1, 0])
    padding = (torch.arange(9) >= torch.tensor([[3], [0]])) if padded else None
    first = target[torch.tensor([2, 0]), :begun]
    target[:, :begun] = first[rows]
    whole = model(source[rows], target, padding=padding[rows] if padded else None)
    cache = model.new_cache(2, 6)
    if begun:
        model(source, first, padding=padding, cache=cache)
    given = (None, None) if begun else (source[rows], padding[rows] if padded else None)
    taken = cache.take(rows)
    found = model(given[0], target[:, begun:], padding=given[1], cache=taken)
    assert distance(found, whole[:, begun:]) < 1e-12
    if begun:
        rest = model(source, target[:2], padding=padding)
        cache.rewind(0)
        assert distance(model(source, target[:2], padding=padding, cache=cache), rest) < 1e-12


@torch.no_grad()
def test_compiled_steps_read_what_the_first_call_computed(package: ModuleType) -> None:
    model, source, target = made(package, "Model"), tokens(9), tokens(6)
    whole, cache = model(source, target), model.new_cache(2, 6)
    step = torch.compile(model, backend="eager", fullgraph=True)
    parts = [step(source, target[:, :4], cache=cache), step(None, target[:, 4:5], cache=cache)]
    assert distance(torch.cat(parts, 1), whole[:, :5]) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("cross", CROSS)
@interpreted
def test_steps_of_kernels_over_the_encoder(cross: str, tmp_path: Path) -> None:
    model = build(CROSSING.format(cross=CROSS[cross]), cross, tmp_path).Model(dtype=torch.float32)
    scramble(model)
    kernels = vars(sys.modules[f"{type(model).__module__.rpartition('.')[0]}.kernels"])
    assert any(name.endswith("_step") for name in kernels) == (cross == "wide")
    source, target = tokens(9), tokens(6)
    whole, cache = model(source, target), model.new_cache(2, 6)
    model(source, target[:, :4], cache=cache)
    cache.start_steps()
    parts = [model(None, token, cache=cache) for token in target[:, 4:].split(1, 1)]
    assert distance(torch.cat(parts, 1), whole[:, 4:]) < 1e-5


@torch.no_grad()
def test_one_sequence_of_the_encoder_for_many(package: ModuleType) -> None:
    model, source, target = made(package, "Model"), tokens(9, 1), tokens(6, 3)
    target[:, :2] = target[:1, :2]
    cache = model.new_cache(1, 6)
    model(source, target[:1, :2], cache=cache)
    found = model(None, target[:, 2:], cache=cache.take(torch.zeros(3, dtype=torch.int64)))
    assert distance(found, model(source.expand(3, -1), target)[:, 2:]) < 1e-12


def test_generate_says_what_the_encoder_takes(package: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"tokens must be int64 \[B, T\], not list"):
        made(package, "Model").generate([[1, 2, 3]])


@kinds
def test_what_a_cache_refuses(package: ModuleType, kind: str) -> None:
    model, cache = made(package, kind), made(package, kind).new_cache(2, 6)
    with pytest.raises(ValueError, match="tokens must be given"):
        model(None, tokens(2), cache=cache)
    with pytest.raises(ValueError, match="tokens must be given"):
        model(None, tokens(2))
    model(tokens(9), tokens(2), cache=cache)
    with pytest.raises(ValueError, match="filled for 9 tokens, not for these 8"):
        model(tokens(8), tokens(1), cache=cache)
    with pytest.raises(ValueError, match="2 are in it, 5 more do not fit"):
        model(None, tokens(5), cache=cache)


@kinds
def test_generate_begins_with_the_token_of_the_spec(package: ModuleType, kind: str) -> None:
    model, source = made(package, kind), tokens(9)
    found = model.generate(source, max_new_tokens=5)
    assert found.shape == (2, 6)
    assert found[:, 0].tolist() == [START, START]
    for length in range(1, 6):
        assert torch.equal(model(source, found[:, :length])[:, -1].argmax(-1), found[:, length])
    longer = model.generate(source, max_new_tokens=3, decoder_tokens=found[:, :3])
    assert torch.equal(longer, found)


@kinds
def test_padding_of_either_sequence_changes_nothing(package: ModuleType, kind: str) -> None:
    model = made(package, kind)
    source, real = tokens(9), torch.ones(2, 9, dtype=torch.bool)
    real[0, :4] = False
    prompt, told = tokens(4), torch.ones(2, 4, dtype=torch.bool)
    told[1, :2] = False
    together = model.generate(
        source, max_new_tokens=5, padding=real, decoder_tokens=prompt, decoder_padding=told
    )
    first = model.generate(source[:1, 4:], max_new_tokens=5, decoder_tokens=prompt[:1])
    second = model.generate(source[1:], max_new_tokens=5, decoder_tokens=prompt[1:, 2:])
    assert torch.equal(together[0, -5:], first[0, -5:])
    assert torch.equal(together[1, -5:], second[0, -5:])


@kinds
def test_loss_is_of_the_next_decoder_token(package: ModuleType, kind: str) -> None:
    model, source, target = made(package, kind), tokens(9), tokens(6)
    labels = target.clone()
    labels[0, :3] = -100
    logits = model(source, target)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert distance(model.loss(source, target, labels), expected) < 1e-12
    chosen = logits.log_softmax(-1)[:, :-1].gather(-1, target[:, 1:, None])[..., 0]
    assert distance(model.log_probs(source, target), chosen) < 1e-12


@pytest.mark.slow
def test_the_whole_model_is_one_graph_for_the_compiler(package: ModuleType) -> None:
    model = made(package, "Model")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert distance(compiled(tokens(9), tokens(6)), model(tokens(9), tokens(6))) < 1e-12
