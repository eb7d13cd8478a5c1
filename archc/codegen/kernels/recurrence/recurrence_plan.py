"""What the template of linear recurrences may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.by_document import by_document
from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.recurrence.chunk_kernels import ChunkKernels, signature
from archc.codegen.kernels.recurrence.chunk_plan import ChunkTiles, fits_tiles
from archc.codegen.kernels.signature import Signature
from archc.codegen.names import camel_case

_ELEMENTS = 4096  # of states in a program, in its registers
_FEW = 1024  # at which it takes in further heads
_KEPT = 1 << 24  # of states before chunks, in memory at a time: 64 MB
_PAIRED = 1 << 22  # of decays between tokens, or of states, that PyTorch holds at a time: 16 MB


@dataclass(frozen=True)
class RecurrenceKernel:
    """A recurrence of some heads; its operands but q, k, v and positions are those that it has.

    keys, values: widths of a head's keys and values, the sides of its state
    decay:        by what a token multiplies a state: "", a number of its "head", or one for each "row"
    fixed:        whether that is the same for all tokens
    reads_before: whether results are of states before the token has changed them
    wide:         operands that are float32 whatever the model's dtype is
    plain:        the call of the reference function
    """

    name: str
    heads: int
    kv_heads: int
    keys: int
    values: int
    decay: str
    fixed: bool
    beta: bool
    erase: bool
    carries: bool
    reads_before: bool
    scale: float
    wide: tuple[str, ...]
    plain: str
    template: str = "recurrence"

    @property
    def optional(self) -> list[str]:
        """The operands that not every recurrence has."""
        given = {"log_decay": self.decay, "beta": self.beta, "erase": self.erase, "renew": self.erase}
        return [name for name, there in given.items() if there]

    @property
    def class_name(self) -> str:
        return camel_case(self.name)

    @property
    def parameters(self) -> str:
        """The parameters of its functions."""
        named = ", ".join(f"{name}: Tensor" for name in ("q", "k", "v", "positions", *self.optional))
        return named + (", state: Tensor | None" if self.carries else "")

    @property
    def by_document(self) -> list[str]:
        """What its function does with documents that share rows."""
        rows = ["q", "k", "v", *(name for name in self.optional if not (self.fixed and name == "log_decay"))]
        given = ["q", "k", "v", "span.new_positions", *self.optional, *(["None"] if self.carries else [])]
        return by_document(self.name, given, rows, "documents")

    @property
    def group(self) -> int:
        """How many heads share a query and a key."""
        return self.heads // self.kv_heads

    @property
    def key_block(self) -> int:
        return power_of_two(self.keys)

    @property
    def value_block(self) -> int:
        """How many columns of a state a program has."""
        return min(power_of_two(self.values), max(_ELEMENTS // self.key_block, 1))

    @property
    def head_block(self) -> int:
        """How many heads' states a program has."""
        return min(power_of_two(self.heads), max(_FEW // (self.key_block * self.value_block), 1))

    @property
    def head_programs(self) -> int:
        """How many programs share the heads of a sequence."""
        return -(-self.heads // self.head_block)

    @property
    def value_programs(self) -> int:
        """How many programs share the columns of a state."""
        return -(-self.values // self.value_block)

    @property
    def chunk(self) -> int:
        """Tokens of a chunk: fewer where each pair of them takes a decay for each row of the state."""
        return 16 if self.decay == "row" and self.keys > 1 else 64

    @property
    def has_chunks(self) -> bool:
        """Whether the products of a chunk are known; not where a token's changes of two kinds meet."""
        return not (self.beta and self.erase)

    @property
    def tiles(self) -> ChunkTiles | None:
        """Those in which kernels multiply chunks: of large states, with `erase` if decays differ by row."""
        by_row = self.decay == "row"
        if not self.has_chunks or (self.erase and not by_row) or not fits_tiles(self.keys, self.values):
            return None
        return ChunkTiles(self.keys, self.values, self.beta or self.erase, by_row)

    @property
    def by_token(self) -> Signature:
        """The kernel that takes one token after the other."""
        tensors = ["q", "k", "v", "positions", *self.optional, "state", "o"]
        options = {"num_warps": 4 if self.key_block * self.value_block * self.head_block >= 1024 else 1}
        return signature(tensors, ["q", "k", "v"], ["tokens"], {}, options, {})

    @property
    def by_chunks(self) -> ChunkKernels | None:
        """Those that take chunks."""
        if self.tiles is None:
            return None
        return ChunkKernels(self.tiles, self.optional, self.decay == "row", self.group)

    @property
    def trains(self) -> bool:
        """Whether kernels have its gradient, by chunks as well."""
        return self.tiles is not None

    @property
    def kept_chunks(self) -> int:
        """Of how many chunks of a single sequence the states before them are in memory at a time."""
        return max(_KEPT // (self.heads * self.keys * self.values), 1)

    @property
    def chunks_at_once(self) -> int:
        """How many chunks of a single sequence PyTorch takes at a time where nothing asks for gradients."""
        by_row = self.keys if self.decay == "row" else 1
        largest = max(self.chunk * self.chunk * by_row, self.keys * self.values)
        return max(_PAIRED // (self.heads * largest), 1)
