"""Names in generated code: from the spec's own, made unique and safe."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from archc.ir.names import unique
from archc.ir.paths import Path, Stored

# What modules of PyTorch answer to: a parameter of such a name would hide it.
_MODULE_NAMES = frozenset("""
    add_module apply before_head bfloat16 bool buffers CACHED call_super_init checkpoint children compile
    complete cpu cross_entropy cuda device double dtype dump_patches eval extra_repr fixed float following
    forward generate get_buffer get_extra_state get_parameter get_submodule half head hidden ipu layout
    load_state_dict log_probs loss modules mtia named_buffers named_children named_modules
    named_parameters NATIVE_INPUTS new_cache number parameters register_buffer register_module
    register_parameter requires_grad_ reset_parameters save_pretrained from_pretrained set_extra_state
    set_submodule shape_logits share_memory state_dict stored target_log_probs to to_empty train
    training type xpu zero_grad
    """.split())  # noqa: SIM905 - a list of this length is easier to read as words
_LOCALS = frozenset(
    {"self", "cache", "documents", "span", "padding", "factory", "layer", "super", "zip"}
    | {"kernels", "experts", "torch", "nn", "F", "sizes", "model"}
)

# Arguments and variables of a language model's methods, which take its inputs besides.
_IN_METHODS = frozenset("""
    after ahead apart batch count decoder ends eos first h labels length logits losses max_new_tokens sampler
    seed shares targets temperature terms token top_p weights z_loss
    """.split())  # noqa: SIM905


def identifier(text: str) -> str:
    """A Python identifier close to a text."""
    name = _word(text)
    own = name in _LOCALS or name.endswith(("_span", "_padding"))
    return f"{name}_" if keyword.iskeyword(name) or own else name


def argument(text: str) -> str:
    """A name for an input where methods take it, close to a text."""
    name = identifier(text)
    return f"{name}_" if name in _IN_METHODS else name


def attribute(text: str) -> str:
    """A name for an attribute of a module, close to a text; PyTorch's own begin with an underscore."""
    bare = text.lstrip("_")
    name = _word(bare if bare[:1].isalpha() else text)
    return f"{name}_" if keyword.iskeyword(name) or name in _MODULE_NAMES else name


@lru_cache(maxsize=4096)
def _word(text: str) -> str:
    """Letters, digits and underscores, but no `__` in front: Python changes such names inside of classes."""
    word = re.sub(r"^__+", "_", re.sub(r"\W", "_", text))
    return f"_{word}" if not word or word[0].isdigit() else word


def mentions(text: str, name: str, end: str = r"\b") -> bool:
    """Whether a text has a name that is no attribute, with what follows it."""
    there = name in text  # mostly it is not; and a pattern that starts with a name finds it quickly
    return there and re.search(rf"{name}(?<![\w.]{name}){end}", text) is not None


def parameter_names(weights: Sequence[Sequence[Stored]], taken: Sequence[str]) -> list[str]:
    """A name for each weight of a class: as much of its path's end as tells it from the others.

    `taken` are names that the class has given already.
    """
    segments = [_packed_segments([_words(stored.path) for stored in sources]) for sources in weights]
    lengths = [1] * len(segments)
    while True:
        names = [_join(words[-length:]) for words, length in zip(segments, lengths, strict=True)]
        clashing = {name for name in names if names.count(name) > 1}
        grown = False
        for place, name in enumerate(names):
            if name in clashing and lengths[place] < len(segments[place]):
                lengths[place] += 1
                grown = True
        if not grown:
            break
    result: list[str] = []
    for name in names:
        result.append(unique(attribute(name), (*taken, *result)))
    return result


def layer_names(paths: Sequence[Path]) -> list[str]:
    """Names for loops by their paths: `layers`, or `encoder_layers` where another loop ends in that, too."""
    literal = [[s for s in path if isinstance(s, str)] or ["layers"] for path in paths]
    lengths = [1] * len(paths)
    while True:
        names = [_join(words[-length:]) for words, length in zip(literal, lengths, strict=True)]
        growing = [
            place
            for place, name in enumerate(names)
            if names.count(name) > 1 and lengths[place] < len(literal[place])
        ]
        if not growing:
            return names
        for place in growing:
            lengths[place] += 1


def _words(path: Path) -> list[str]:
    """A path's literal segments: `weight` goes, `bias` joins what it belongs to, and so do numbers."""
    literal = [segment for segment in path if isinstance(segment, str)]
    if len(literal) > 1 and literal[-1] == "weight":
        literal.pop()
    words: list[str] = []
    for segment in literal:
        if words and (segment.isdigit() or segment == "bias"):
            words[-1] = f"{words[-1]}_{segment}"
        else:
            words.append(segment)
    return words


def _packed_segments(paths: list[list[str]]) -> list[str]:
    """The segments of a packed weight: q_proj, k_proj, v_proj become qkv_proj."""
    if len(paths) == 1:
        return paths[0]
    return [*paths[0][:-1], _packed_name([path[-1] for path in paths])]


def _packed_name(leaves: list[str]) -> str:
    words = [leaf.split("_") for leaf in leaves]
    shared = 0
    while all(len(w) > shared + 1 for w in words) and len({w[-1 - shared] for w in words}) == 1:
        shared += 1
    last_words = {each[-1] for each in words}
    if not shared and 1 < len(last_words) < len(words):  # q_proj, k_proj, v_proj, gate: qkv_proj_gate
        return "_".join(
            _packed_name(list(alike)) for _, alike in groupby(leaves, lambda leaf: leaf.split("_")[-1])
        )
    ends = words[0][len(words[0]) - shared :]
    heads = ["_".join(w[: len(w) - shared]) for w in words]
    glue = "" if all(len(head) == 1 for head in heads) else "_"
    return "_".join([glue.join(heads), *ends])


def _join(words: Sequence[str]) -> str:
    return "_".join(words)


def class_name(segment: str) -> str:
    """`layers` -> `Layer`, `encoder_block` -> `EncoderBlock`; one word, but no plural, gives `Layer` too."""
    word = re.sub(r"\W", "_", segment)
    if len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    elif "_" not in word.strip("_"):
        return "Layer"
    return "".join(part.capitalize() for part in word.split("_")) or "Layer"


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
