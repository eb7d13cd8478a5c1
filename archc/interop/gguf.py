"""GGUF files of Llama-like models -> checkpoints in Hugging Face's layout."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archc.errors import ArchcError

# GGUF's tensor names, and where Hugging Face keeps the same tensors.
_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

Progress = Callable[[int, int], None]  # (tensors done, tensors in all)


def convert(source: Path, folder: Path, progress: Progress = lambda _done, _all: None) -> None:
    """Write config.json and model.safetensors, in float32, for a GGUF file of the `llama` architecture.

    Quantised tensors are dequantised.  Raises `ArchcError` for another architecture or an unknown tensor.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(source)
    config = _config({name: field.contents() for name, field in reader.fields.items()})
    tensors: dict[str, Any] = {}
    for done, stored in enumerate(reader.tensors, 1):
        values = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).copy())
        name = _hugging_face_name(stored.name)
        tensors[name] = _unpermuted(name, values, config)
        progress(done, len(reader.tensors))
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".model.safetensors.partial"
    save_file(tensors, partial, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    os.replace(partial, folder / "model.safetensors")


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ArchcError(f"only GGUF files of the `llama` architecture are read, not of `{architecture}`")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "vocab_size": fields["llama.vocab_size"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": fields["llama.rope.freq_base"],
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
    }


def _hugging_face_name(name: str) -> str:
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in _LAYER:
        return f"model.layers.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"
    stem, _, kind = name.rpartition(".")
    if stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{kind}"
    raise ArchcError(f"the GGUF file holds a tensor `{name}` that no Llama model has")


def _unpermuted(name: str, values: Any, config: dict[str, Any]) -> Any:
    """GGUF stores the rows of queries and keys as interleaved rotary pairs; here they are halves."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    projection = name.split(".")[-2]
    if projection not in heads:
        return values.contiguous()
    rows = values.unflatten(0, (config[heads[projection]], -1, 2))  # [heads, pairs, 2, columns]
    return rows.transpose(1, 2).flatten(0, 2).contiguous()
