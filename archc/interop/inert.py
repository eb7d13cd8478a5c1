"""Keys that any config may hold: those that change nothing of what is computed, and those that would."""

from __future__ import annotations

from typing import Any

# Why a group of keys is inert -> the group.
INERT: dict[str, tuple[str, ...]] = {
    "they say who wrote the file": (
        "model_type",
        "transformers_version",
        "_name_or_path",
        "_commit_hash",
    ),
    "they are marks that other tools leave": (
        "is_llama_config",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
    ),
    "the dtype of weights is the checkpoint's own, or chosen when they are loaded": (
        "dtype",
        "torch_dtype",
        "use_bfloat16",
    ),
    "they name tokens, which `generate` is told by its caller": (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "bad_words_ids",
        "prefix",
        "tokenizer_class",
    ),
    "they are for training: dropout, and weights before they are loaded": (
        "initializer_range",
        "attention_dropout",
        "gradient_checkpointing",
    ),
    "they choose how transformers runs the model, not what it computes": (
        "use_cache",
        "cache_implementation",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "chunk_size_feed_forward",
        "torchscript",
        "tf_legacy_loss",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "return_dict",
        "return_dict_in_generate",
        "remove_invalid_values",
        "is_decoder",
        "tie_encoder_decoder",
    ),
    "they are for models with another head": (
        "id2label",
        "label2id",
        "num_labels",
        "_num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
    ),
    "they are defaults of transformers' `generate`": (
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "num_return_sequences",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ),
}

# Keys that would change what the model computes: their supported values, the default first, and why no other.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "auto_map": ((None,), "since a model with code of its own may compute anything"),
    "per_layer_config": ((None,), "since the arch has one set of sizes for all layers"),
    "is_encoder_decoder": ((False,), "since the arch is a decoder"),
    "add_cross_attention": ((False,), "since the arch is a decoder on its own"),
    "cross_attention_hidden_size": ((None,), "since the arch is a decoder on its own"),
    "pruned_heads": (({}, None), "since all heads of a layer are kept"),
}
