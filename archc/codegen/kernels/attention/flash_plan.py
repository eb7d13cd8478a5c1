"""The plan of attention by tiles: what its templates may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.attention import Attention
from archc.codegen.kernels.attention.flash_bias import FlashBias
from archc.codegen.kernels.attention.flash_tiles import Tile, Tiles
from archc.codegen.kernels.signature import Signature

_LOG2_E = 1.4426950408889634
_HEADS = ("q", "k", "v")
_LENGTHS = ("queries=queries", "keys=keys", "**strides")


@dataclass(frozen=True)
class FlashKernel(Attention):
    """Attention that holds the scores of a tile of queries and keys at a time, and passes over unseen tiles.

    `sees` is the mask as a Triton expression of a `query` and a `key`, both positions; `window` and `chunk`
    are how far it reaches, 0 for no bound.  `choosers`: how many choices of keys a query has, each for
    as many heads, which kernels read as bits; 0 where it sees what the mask lets it.
    """

    sees: str
    causal: bool
    window: int
    chunk: int
    head_block: int
    value_block: int
    choosers: int
    sinks: bool
    bias: FlashBias | None
    tiles: Tiles

    @property
    def has_table(self) -> bool:
        """Whether the bias is read off a table, which has a gradient."""
        return self.bias is not None and self.bias.table

    @property
    def of_keys(self) -> bool:
        """Whether the bias is a number that each key has for each head."""
        return self.bias is not None and self.bias.inputs == ("bias",) and not self.bias.pairs

    @property
    def of_pairs(self) -> bool:
        """Whether the bias is a number of each query and key, for each head or for all."""
        return self.bias is not None and self.bias.pairs

    @property
    def by_distance(self) -> bool:
        """Whether each query has a bias for each distance."""
        return self.bias is not None and self.bias.distances > 0

    @property
    def bias_given(self) -> bool:
        """Whether the bias is given: it may be far below others, as one of -1e9 that hides keys is."""
        return self.of_keys or self.of_pairs

    def bias_at(self, query: str, key: str) -> str:
        """The bias of a tile of scores; `query` and `key`: how each lies along it."""
        assert self.bias is not None
        if self.of_keys:
            return f"_{self.name}_bias(place{key}, keys, sequence * {self.heads} + head, bias_ptr)"
        if self.of_pairs:
            return f"_{self.name}_bias(row{query}, place{key}, queries, keys, own_bias_ptr, bias_stride)"
        if self.by_distance:
            return (
                f"_{self.name}_bias({self.back(query, key)}, row{query}, queries, own_bias_ptr, bias_stride)"
            )
        return f"_{self.name}_bias(query{query}, key{key}, head, {self.bias.pointers})"

    def back(self, query: str, key: str) -> str:
        """How far keys are before queries, from the first distance that has a value."""
        assert self.bias is not None
        first = self.bias.first
        return f"query{query} - key{key}" + (f" {'-' if first > 0 else '+'} {abs(first)}" if first else "")

    def biased(self, query: str, key: str) -> str:
        """A tile of scores with its bias; where that may be large, less their peak."""
        biased = f"score + {self.bias_at(query, key)}"
        return f"tl.minimum({biased} - peak{query}, 0.0)" if self.bias_given else biased

    @property
    def own_bias(self) -> str:
        """Where that begins which a sequence's queries have for a head; "" if they have nothing."""
        if self.bias is None or not self.bias.strides:
            return ""
        of_head = "" if self.bias.shared else " + tl.cast(head, tl.int64) * bias_head_stride"
        return f"{self.bias.pointers} + sequence * bias_batch_stride{of_head}"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The operands besides queries, keys and values that have gradients."""
        given = {"table": self.has_table, "bias": self.bias_given, "values": self.by_distance}
        return ("sinks",) * self.sinks + tuple(name for name, is_given in given.items() if is_given)

    @property
    def chooses(self) -> bool:
        """Whether queries see no keys but those that they have chosen."""
        return self.choosers > 0

    @property
    def choice(self) -> str:
        """The number of a choice among all, for queries in rows of a sequence and a head."""
        query = "sequence * queries + row.to(tl.int64)"
        if self.choosers == 1:
            return f"({query})"
        shared = self.heads // self.choosers
        return f"(({query}) * {self.choosers} + head{f' // {shared}' if shared > 1 else ''})"

    @property
    def sight(self) -> str:
        """What tells which keys are seen, besides positions: those chosen, or whether all are in order."""
        return "chosen" if self.chooses else "ordered"

    @property
    def sight_back(self) -> str:
        """The same for the gradient; "" where it passes over the same tiles whatever the order is."""
        return self.sight if self.chooses or self.reach else ""

    @property
    def reach(self) -> int:
        """How many keys a query sees at most, its own included, of those up to it; 0 for no bound."""
        return self.window or self.chunk

    @property
    def sight_type(self) -> str:
        return "Tensor" if self.chooses else "bool"

    @property
    def tensor_parameters(self) -> str:
        return "".join(f", {name}: Tensor" for name in self.tensors)

    @property
    def tensor_arguments(self) -> str:
        return "".join(f", {name}" for name in self.tensors)

    @property
    def tensor_fakes(self) -> str:
        """Their gradients on tensors without data; that of pairs, which is large, if there is one."""
        of_pairs = "_like(bias, *(bias.shape if learned else [0]))"
        fakes = {"values": "_like(values, *values.shape)"} | ({"bias": of_pairs} if self.of_pairs else {})
        return "".join(f", {fakes.get(name, f'torch.empty_like({name})')}" for name in self.tensors)

    @property
    def forward(self) -> Signature:
        """The kernel of the results."""
        read = (*_HEADS, *("sinks",) * self.sinks)
        lengths = (
            "queries=queries",
            "keys=k.shape[1]",
            "**_flash_strides(q, k, v, positions, key_positions)",
        )
        tile = self.tiles.forward
        written = ("o", "level", *self._peak)
        return self._signature(read, written, lengths, self.sight, ("tile", tile.at("keys")), tile)

    @property
    def query_gradient(self) -> Signature:
        """The kernel of the gradient of queries."""
        read = ("do", "o", "level", *self._peak, *_HEADS)
        written = ("dq", "delta", *("dtable",) * self.has_table, *("dvalues",) * self.by_distance)
        tile = self.tiles.query_gradient
        return self._signature(read, written, _LENGTHS, self.sight_back, ("tile", tile.at("keys")), tile)

    @property
    def key_gradient(self) -> Signature:
        """The kernel of the gradients of keys and values."""
        read = ("do", "level", *self._peak, "delta", *_HEADS)
        written = ("dk", "dv", *("dbias",) * self.of_keys)
        tile = self.tiles.key_gradient
        return self._signature(read, written, _LENGTHS, self.sight_back, (tile.at("queries"), "tile"), tile)

    @property
    def bias_gradient(self) -> Signature:
        """The kernel of the gradient of what pairs are given."""
        read, tile = ("do", "level", "peak", "delta", *_HEADS), self.tiles.bias_gradient
        lengths = ("sequences=batch // bias.shape[0]", *_LENGTHS)
        sizes = tile.at("queries"), tile.at("keys")
        return self._signature(read, ("dbias",), lengths, self.sight_back, sizes, tile)

    @property
    def _peak(self) -> tuple[str, ...]:
        """Each query's highest score, apart from its level where a bias may be far below others."""
        return ("peak",) * self.bias_given

    def _signature(
        self,
        read: tuple[str, ...],
        written: tuple[str, ...],
        lengths: tuple[str, ...],
        sight: str,
        sizes: tuple[str, str],
        tile: Tile,
    ) -> Signature:
        """Of a kernel that asks for `sight`, and has tiles of these sizes."""
        chosen = ("chosen",) * self.chooses
        bias = self.bias.inputs if self.bias else ()
        tensors = (*read, *bias, *chosen, "positions", "key_positions", *written)
        given = {"chosen": {"words": "chosen.shape[-1]"}, "ordered": {"ordered": "ordered"}, "": {}}[sight]
        strides = (f"{name}{of}_stride" for name in _HEADS for of in ("_batch", ""))
        of_positions = ("positions_batch_stride", "key_positions_batch_stride")
        given |= self.bias.strides if self.bias else {}
        numbers = [length.partition("=")[0] for length in lengths if "=" in length]
        return Signature(
            (
                *(f"{name}_ptr" for name in tensors),
                *(*numbers, *strides, *of_positions, *given),
                *("QUERIES: tl.constexpr", "KEYS: tl.constexpr"),
            ),
            (
                *(f"{name}_ptr={name}" for name in tensors),
                *lengths,
                *(f"{name}={value}" for name, value in given.items()),
                *(f"{name}={size}" for name, size in zip(("QUERIES", "KEYS"), sizes, strict=True)),
                *tile.options,
            ),
        )

    @property
    def parts(self) -> int:
        """How many programs take the same keys of all heads: one a query head, so that there are enough.

        Within a window or chunk one has little to do beside a sum over them: there it is one a key head.
        """
        return self.kv_heads if self.window or self.chunk else self.heads

    @property
    def apart(self) -> bool:
        """Whether the gradients of a key head come from several programs, in float32, and are summed up."""
        return self.parts > self.kv_heads

    def at_key_head(self, part: str, width: int) -> str:
        """How far on a key head's columns begin, for a query head or a part of the gradients."""
        if self.kv_heads == 1:
            return ""
        members = self.group if part == "head" or self.apart else 1
        return f" + {part} // {members} * {width}" if members > 1 else f" + {part} * {width}"

    @property
    def score_factor(self) -> str:
        """What products of queries and keys are multiplied by: scores have base 2, or are shares of a cap."""
        return repr(self.scale / self.softcap if self.softcap else self.scale * _LOG2_E)

    @property
    def cap(self) -> str:
        return repr((self.softcap or 0.0) * _LOG2_E)

    @property
    def per_cap(self) -> str:
        return repr(1.0 / ((self.softcap or 1.0) * _LOG2_E))

    @property
    def log2_e(self) -> str:
        return repr(_LOG2_E)

    @property
    def head_mask(self) -> str:
        return f" & (column < {self.head_dim})[None, :]" if self.head_block != self.head_dim else ""

    @property
    def value_mask(self) -> str:
        return f" & (value_column < {self.value_dim})[None, :]" if self.value_block != self.value_dim else ""

    @property
    def first_key(self) -> str:
        """Of tokens in order, the first key that the first query of a tile, at place `first`, sees."""
        if self.window:
            return f"tl.maximum(first - {self.window - 1}, 0)"
        if self.chunk:
            return f"tl.maximum(first - first_position % {self.chunk}, 0)"
        return "0"

    @property
    def first_shared_key(self) -> str:
        """The first key that all queries of a tile see, the last of them at place `last`."""
        if self.window:
            return f"tl.maximum(last - {self.window - 1}, 0)"
        if self.chunk:
            return f"tl.maximum(last - (first_position + last - first) % {self.chunk}, 0)"
        return "0"

    @property
    def last_query(self) -> str:
        """After the last query that sees the last key of a tile, at place `last`."""
        if self.window:
            return f"last + {self.window}"
        if self.chunk:
            return f"last + {self.chunk} - last_position % {self.chunk}"
        return "keys"
