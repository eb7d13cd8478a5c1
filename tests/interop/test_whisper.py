"""Whisper: a convolution that takes every second frame is arithmetic on frames that come two to a token."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from tests.interop.parity import LOGITS, VOCABULARY, both, draw_weights, random_tokens, spec_of
from tests.support import build, distance

MELS, SOURCE, TARGET = 10, 12, 9


def whisper(folder: Path) -> WhisperForConditionalGeneration:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 3}
    widths = {"d_model": 48, "encoder_ffn_dim": 80, "decoder_ffn_dim": 64, "num_mel_bins": MELS}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "vocab_size": VOCABULARY}
    places = {"max_source_positions": SOURCE, "max_target_positions": TARGET}
    tokens = {"decoder_start_token_id": 3, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": None}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(**heads, **widths, **layers, **places, **tokens)
    ).eval()
    draw_weights(model, torch.Generator().manual_seed(5))
    model.save_pretrained(folder)
    return model


def _through_cache(model: torch.nn.Module, frames: Tensor, tokens: Tensor) -> Tensor:
    cache = model.new_cache(len(tokens), TARGET)
    first, *others = tokens.split((4, 1, 1, TARGET - 6), 1)
    parts = [model(frames, first, cache=cache), *(model(None, part, cache=cache) for part in others)]
    return torch.cat(parts, 1)


@both
def test_whisper(kind: str, tmp_path: Path) -> None:
    theirs = whisper(tmp_path / "tiny")
    package = build(spec_of("whisper"), "whisper", tmp_path)
    model = getattr(package, kind).from_pretrained(tmp_path / "tiny")
    sound = torch.randn(2, MELS, 2 * SOURCE, generator=torch.Generator().manual_seed(1))
    frames, tokens = sound.transpose(1, 2).reshape(2, SOURCE, 2 * MELS), random_tokens(length=TARGET)
    with torch.no_grad():
        truth = theirs(input_features=sound, decoder_input_ids=tokens).logits
        assert distance(model(frames, tokens), truth) < LOGITS
        assert distance(_through_cache(model, frames, tokens), truth) < LOGITS
        written = model.generate(frames, max_new_tokens=5)
        likely = theirs(input_features=sound, decoder_input_ids=written).logits.argmax(-1)
    assert torch.equal(written[:, 1:], likely[:, :-1])
