"""What the tests against transformers share: random checkpoints, and what is compared with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from archc.verification.packages import stored_tensors
from tests.support import distance

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

FAMILIES = Path(__file__).parent / "families"  # specs that stand for classes of transformers

VOCABULARY = 99
PIECES = (5, 1, 1, 4, 6)  # how a sequence reaches the cache
TOKENS = sum(PIECES)  # more than any window in these tests
EPS = 0.02  # of every norm: large, so that another one shows

# In float32 both sides err by about 1e-6; gradients by some 1e-5, where random weights saturate the softmax.
LOGITS, GRADIENTS = 1e-5, 1e-4
# In float64 nothing is left of that but what transformers computes in float32 whatever the dtype: the angles
# of rotations, which archc rounds only when they are sines; RMS norms, and here and there a whole rotation or
# a softmax.
EXACT, ANGLES, ROUNDED = 1e-12, 1e-7, 3e-6

_NO_SDPA = (
    "bloom",
    "codegen",
    "dbrx",
    "deepseek_v4",
    "doge",
    "dory",
    "falcon_mamba",
    "gemma2",
    "gpt_neo",
    "gpt_oss",
    "gptj",
    "inkling_text",
    "jetmoe",
    "mamba",
    "mamba2",
    "openai-gpt",
    "rwkv",
    "xlstm",
)  # transformers has eager attention only for these, or none
_ZERO = 1e-3  # of the largest gradient: one below may be rounding alone

both = pytest.mark.parametrize("kind", ["Model", "Reference"])
# The unfused model's share of these is in its logits, those after a cache included.
fused_by_default = pytest.mark.parametrize(
    "kind", ["Model", pytest.param("Reference", marks=pytest.mark.slow)]
)


@dataclass(frozen=True)
class Pair:
    """A model of transformers, the folder of its checkpoint, and the package that was built for it."""

    theirs: Any
    folder: Path
    package: ModuleType
    float64: float  # how far apart both may be in float64
    loaded: dict[tuple[str, torch.dtype | None], Any] = field(default_factory=dict)

    def ours(self, kind: str, dtype: torch.dtype | None = None) -> Any:
        """`Model` or `Reference` with the checkpoint's weights, read once, without gradients."""
        if (kind, dtype) not in self.loaded:
            self.loaded[kind, dtype] = getattr(self.package, kind).from_pretrained(self.folder, dtype=dtype)
        self.loaded[kind, dtype].zero_grad()
        return self.loaded[kind, dtype].train()

    @cached_property
    def logits(self) -> Tensor:
        """Theirs for `random_tokens()`."""
        with torch.no_grad():
            logits: Tensor = self.theirs(random_tokens()).logits
        return logits

    @cached_property
    def exact_logits(self) -> Tensor:
        """Theirs for `random_tokens()`, in float64."""
        with torch.no_grad():
            logits: Tensor = self.theirs.double()(random_tokens()).logits
        self.theirs.float()
        return logits

    @cached_property
    def gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Their loss for `labels()`, and its gradients by the names in the checkpoint.

        Some classes return no loss of their own: all are given the one that most have.
        """
        logits = self.theirs(random_tokens()).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels()[:, 1:].flatten())
        loss.backward()
        found = dict(stored_gradients(self))
        self.theirs.zero_grad()
        return loss.detach(), found


def sizes(**changes: Any) -> dict[str, Any]:
    """Arguments of a small config: three query heads share a key head.  None takes an argument out."""
    given = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    kept = {name: value for name, value in given.items() if value is not None}
    return {**kept, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def rope(theta: float = 10000.0, **others: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **others}}


def ln(config: Callable[..., Any], **changes: Any) -> Callable[[], PretrainedConfig]:
    """A config of a family with layer norms."""
    return partial(config, **sizes(layer_norm_eps=EPS, **changes))


def rms(config: Callable[..., Any], **changes: Any) -> Callable[[], PretrainedConfig]:
    """A config of a family with RMS norms."""
    return partial(config, **sizes(rms_norm_eps=EPS, **changes))


def gpt(config: Callable[..., Any], **changes: Any) -> Callable[[], PretrainedConfig]:
    """A config of a family that took GPT-2's names for its sizes."""
    given = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 3, "n_positions": 64}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return partial(config, **{**given, **tokens, "layer_norm_epsilon": EPS, **changes})


def spec_of(model: str) -> Path:
    """The spec that defines a model."""
    return next(path for path in FAMILIES.rglob("*.arch") if f"model {model} =" in path.read_text())


def save_random(config: PretrainedConfig, folder: Path, spread: float = 0.25) -> Any:
    """A model of transformers whose random weights show mistakes, saved in a folder.

    Matrices are normal with a standard deviation of `spread`, many times that of training; vectors vary
    around their start value, 1 or 0 in a norm, and so do biases of experts' scores, which are no parameters.
    """
    torch.manual_seed(0)
    attention = "eager" if config.model_type in _NO_SDPA else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    model.set_experts_implementation("eager")  # the others take no float64
    generator = torch.Generator().manual_seed(5)
    draw_weights(model, generator, spread)
    with torch.no_grad():
        for table in (buffer for name, buffer in model.named_buffers() if name.endswith("tid2eid")):
            table.copy_(torch.rand(len(table), 5, generator=generator).argsort(1)[:, : table.shape[1]])
        for bias in (buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")):
            bias.copy_(0.3 * torch.randn(bias.shape, generator=generator))
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    return model


def draw_weights(model: nn.Module, generator: torch.Generator, spread: float = 0.25) -> None:
    """Give a model weights as `save_random` says."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(spread * noise if parameter.dim() > 1 else parameter + 0.3 * noise)


def random_tokens(batch: int = 2, length: int = TOKENS) -> Tensor:
    """int64 [batch, length], none again before all others: what is chosen among equals differs."""
    generator = torch.Generator().manual_seed(3)
    times = -(-length // (VOCABULARY - 3))
    rows = [torch.randperm(VOCABULARY - 3, generator=generator) for _ in range(batch * times)]
    return 3 + torch.stack(rows).view(batch, -1)[:, :length]


def labels() -> Tensor:
    """The tokens themselves, of which the first few of one sequence are no labels."""
    tokens = random_tokens()
    tokens[0, :4] = -100
    return tokens


class ParityTests:
    """What holds for every pair: a subclass is collected where a module-wide fixture `pair` provides them."""

    @both
    def test_logits(self, pair: Pair, kind: str) -> None:
        tokens, model = random_tokens(), pair.ours(kind)
        with torch.no_grad():
            assert distance(model(tokens), pair.logits) < LOGITS
            assert distance(through_cache(model, tokens), pair.logits) < LOGITS

    @fused_by_default
    def test_greedy_tokens(self, pair: Pair, kind: str) -> None:
        tokens = random_tokens(length=6)
        theirs = pair.theirs.generate(tokens, max_new_tokens=6, do_sample=False)
        assert torch.equal(pair.ours(kind).generate(tokens, max_new_tokens=6), theirs)

    @fused_by_default
    def test_padding_changes_nothing(self, pair: Pair, kind: str) -> None:
        """What follows prompts of several lengths in one batch, padded on the left, follows each alone."""
        model, lengths, new = pair.ours(kind), (4, 9, 7), 4
        prompts = random_tokens(len(lengths), max(lengths))
        real = torch.stack([torch.arange(max(lengths)) >= max(lengths) - length for length in lengths])
        together = model.generate(prompts * real, max_new_tokens=new, padding=real)
        for row, length in enumerate(lengths):
            alone = model.generate(prompts[row : row + 1, -length:], max_new_tokens=new)
            assert torch.equal(together[row, -new:], alone[0, -new:])


class CloserTests:
    """What holds for every pair, too, of the kinds that a subclass is marked with."""

    def test_logits_in_float64(self, pair: Pair, kind: str) -> None:
        with torch.no_grad():
            found = pair.ours(kind, torch.float64)(random_tokens())
        assert distance(found, pair.exact_logits) < pair.float64

    def test_loss_and_gradients(self, pair: Pair, kind: str) -> None:
        model, (theirs, wanted) = pair.ours(kind), pair.gradients
        loss = model.loss(random_tokens(), labels())
        loss.backward()
        assert distance(loss, theirs) < LOGITS
        found = dict(stored_tensors(model, gradients=True))
        assert set(found) >= set(wanted)  # weights that share a tensor have a gradient if one has: of zeros
        assert not any(found[name].any() for name in set(found) - set(wanted))
        least = _ZERO * max(float(gradient.norm()) for gradient in wanted.values())
        for name, gradient in wanted.items():
            apart = float((found[name] - gradient).norm()) / max(float(gradient.norm()), least)
            assert apart < GRADIENTS, name

    def test_saves_what_it_loads(self, pair: Pair, kind: str, tmp_path: Path) -> None:
        pair.ours(kind).save_pretrained(tmp_path)
        written = load_file(tmp_path / "model.safetensors")
        original = _stored_parameters(pair)
        assert set(written) == set(original)
        for name, tensor in original.items():
            assert written[name].dtype == tensor.dtype
            assert torch.equal(written[name], tensor), name


def stored_gradients(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """Their gradients by the names in the checkpoint."""
    for name, _, gradient in _by_checkpoint_name(pair):
        if gradient is not None:
            yield name, gradient


def through_cache(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits of a sequence that reaches the cache in pieces: a prefill, single steps, several at once."""
    cache = model.new_cache(tokens.shape[0], tokens.shape[1])
    return torch.cat([model(piece, cache=cache) for piece in tokens.split(PIECES, 1)], 1)


def _stored_parameters(pair: Pair) -> dict[str, Tensor]:
    """The checkpoint's tensors but for what a module of theirs saves besides its parameters."""
    names = {name for name, _, _ in _by_checkpoint_name(pair)}
    stored = load_file(pair.folder / "model.safetensors")
    return {name: tensor for name, tensor in stored.items() if name in names}


def _by_checkpoint_name(pair: Pair) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Their parameters and gradients by the names in the checkpoint, which the module may not have."""
    stored = load_file(pair.folder / "model.safetensors")
    places = {_place(name): name for name in stored}  # a checkpoint may have other segments between
    named = ((places.get(_place(name), name), buffer) for name, buffer in pair.theirs.named_buffers())
    held = ((name, buffer) for name, buffer in named if name in stored and not _is_ignored(pair, name))
    buffers = ((name, buffer) for name, buffer in held if buffer.dim())  # scalars are constants of a config
    joined: dict[str, dict[int, nn.Parameter]] = {}  # those that a tensor holds one below the other
    for name, parameter in (*pair.theirs.named_parameters(), *buffers):
        if name in stored:
            yield name, parameter.detach(), parameter.grad
            continue
        if (rows := _rows_of(parameter.detach(), stored)) is not None:
            joined.setdefault(rows[0], {})[rows[1]] = parameter
            continue
        for part, gradient in _pieces(parameter, stored):
            yield next(_equal(part, stored)), part, gradient

    for name, parts in joined.items():
        ordered = [parts[row] for row in sorted(parts)]
        gradients = [part.grad for part in ordered if part.grad is not None]
        yield name, torch.cat([part.detach() for part in ordered]), (
            torch.cat(gradients) if gradients else None
        )


def _rows_of(part: Tensor, stored: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """The tensor that holds a matrix among its rows, and from which row on; None where none does."""
    for name, tensor in stored.items():
        if tensor.dim() == part.dim() == 2 and tensor.shape[1] == part.shape[1] and len(tensor) > len(part):
            for row in (tensor == part[0]).all(1).nonzero().flatten().tolist():
                if torch.equal(tensor[row : row + len(part)], part):
                    return name, row
    return None


def _is_ignored(pair: Pair, name: str) -> bool:
    """Whether the spec says that the model has no use for a tensor."""
    return any(fnmatchcase(name, pattern) for pattern in getattr(pair.package.checkpoint, "IGNORED", ()))


def _place(name: str) -> tuple[str, ...]:
    """The numbers in a tensor's name, such as its layer's, and the last segment."""
    *path, last = name.split(".")
    return (*filter(str.isdigit, path), last)


def _pieces(parameter: nn.Parameter, stored: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What the checkpoint holds of a parameter: all of it, three parts, or each stacked expert's matrices."""
    for count in (1, 3):
        parts = parameter.detach().chunk(count)
        if all(any(_equal(part, stored)) for part in parts):
            none = [None] * count
            yield from zip(
                parts, none if parameter.grad is None else parameter.grad.chunk(count), strict=True
            )
            return
    for expert, held in enumerate(parameter.detach()):
        halves = 1 if any(_equal(held, stored)) else 2  # gate and up lie in one matrix
        gradients = [None] * halves if parameter.grad is None else parameter.grad[expert].chunk(halves)
        yield from zip(held.chunk(halves), gradients, strict=True)


def _equal(part: Tensor, stored: Mapping[str, Tensor]) -> Iterator[str]:
    return (name for name, tensor in stored.items() if torch.equal(tensor, part))
