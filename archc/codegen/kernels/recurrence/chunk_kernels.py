"""The kernels of a recurrence: what each takes, and what its launch gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archc.codegen.kernels.recurrence.chunk_plan import ChunkTiles
from archc.codegen.kernels.signature import Signature

_Sizes = Mapping[str, int | str]
_HEADS = {"dq": "of_heads[0]", "dk": "of_heads[1]"}  # of each head, where several share a key


def signature(
    tensors: Sequence[str],
    strided: Sequence[str],
    numbers: Sequence[str],
    sizes: _Sizes,
    options: _Sizes,
    given: Mapping[str, str],
) -> Signature:
    """What a kernel takes: tensors, numbers, how far tokens and heads lie apart, and constants.

    strided: the tensors of which that varies, besides positions
    options: what a launch says that is no parameter
    given:   what a launch gives for a tensor, where that is not its name
    """
    strides = {
        f"{name}{part}_stride": f"{name}.stride({dim})"
        for name in strided
        for dim, part in enumerate(("", "_head"))
    }
    if "positions" in tensors:
        strides["positions_stride"] = "_batch_stride(positions)"
    return Signature(
        (
            *(f"{name}_ptr" for name in tensors),
            *numbers,
            *strides,
            *(f"{name}: tl.constexpr" for name in sizes),
        ),
        (
            *(given.get(name, name) for name in tensors),
            *numbers,
            *strides.values(),
            *(f"{name}={value}" for name, value in {**sizes, **options}.items()),
        ),
    )


@dataclass(frozen=True)
class ChunkKernels:
    """The kernels that take chunks of tokens, and the tensors between them.

    optional: the operands besides q, k, v and positions
    by_row:   whether each row of a state has a decay of its own
    group:    how many heads share a query and a key
    """

    tiles: ChunkTiles
    optional: Sequence[str]
    by_row: bool
    group: int

    def _where(self, operand: str, *names: str) -> list[str]:
        """Names of what is there with an operand."""
        return list(names) if operand in self.optional else []

    @property
    def solved(self) -> str:
        """What tokens store or find, if that depends on what earlier ones of their chunk do; else ""."""
        return "".join(self._where("beta", "stored") or self._where("erase", "found"))

    @property
    def source(self) -> str:
        """What goes into the state."""
        return "stored" if self.solved == "stored" else "v"

    @property
    def reads(self) -> list[str]:
        """What has the width of keys."""
        return ["q", "k", *self._where("erase", "erase", "renew")]

    @property
    def operands(self) -> list[str]:
        """All but the values."""
        return [*self.reads, "positions", "log_decay", *self._where("beta", "beta")]

    @property
    def decayed_keys(self) -> list[str]:
        """Keys with the decays between them and the states, and what decays leave of a state."""
        further = self._where("erase", "renew_left", "erase_until") or self._where("beta", "k_until")
        return ["k_left", *further, "end"]

    @property
    def squares(self) -> list[str]:
        """What each token of a chunk is to each."""
        solving = ["pairs", "inverse"] if self.solved else []
        return ["weights", *self._where("erase", "weights_again"), *solving]

    @property
    def squares_back(self) -> list[str]:
        """Those of them that the state's gradient needs."""
        return [name for name in self.squares if name != "pairs" or "erase" in self.optional]

    @property
    def square_gradients(self) -> list[str]:
        again = self._where("erase", "dweights_again", "dpairs", "dagain")
        return ["dweights", *again, *self._where("beta", "dpairs")]

    @property
    def from_state(self) -> list[str]:
        """Gradients that follow from the state's."""
        return {"stored": ["dchange"], "found": ["dchange", "dv"], "": ["dv"]}[self.solved]

    @property
    def of_states(self) -> list[str]:
        """What the states of some chunks are computed from, and by way of."""
        if self.by_row:
            between = [*self.squares, self.solved] if self.solved else []
            given = [*self.operands, "v", "q_until", *self.decayed_keys, *between]
        else:
            given = ["k", "v", "positions", *self.optional, *self._where("beta", "inverse", "stored")]
        return [*given, "state", "states"]

    @property
    def inverse(self) -> Signature:
        keys = {"KEYS": self.tiles.key_tile}
        return self._kernel(["k", "positions", *self.optional, "inverse"], ["k"], keys, warps=2)

    @property
    def decayed(self) -> Signature:
        tensors = [*self.reads, "positions", "log_decay", "q_until", *self.decayed_keys]
        return self._kernel(tensors, ["q", "k"], {"KEYS": self.tiles.key_tile})

    @property
    def pairs(self) -> Signature:
        return self._kernel([*self.operands, *self.squares], ["q", "k"], {"KEYS": self.tiles.key_tile})

    @property
    def weights(self) -> Signature:
        tensors = ["q", "k", "positions", *self._where("log_decay", "log_decay"), "weights"]
        sizes: _Sizes = {"KEYS": self.tiles.key_tile, "PARTS": "parts"}
        return self._kernel(tensors, ["q", "k"], sizes, warps=2)

    @property
    def states(self) -> Signature:
        sizes = self._sizes(self.tiles.key_tile, self.tiles.state_columns)
        if not self.by_row:
            stages = "1 if k.dtype == torch.float32 else 2"
            return self._kernel(self.of_states, ["k", "v"], sizes, stages=stages)
        solving = self._where("beta", "beta", "inverse", "stored")
        solving += self._where("erase", "pairs", "inverse", "found")
        tensors = [*self.decayed_keys, "v", "positions", *solving, "state", "states"]
        return self._kernel(tensors, ["v"], sizes, stages=2 if self.solved else 1)

    @property
    def outputs(self) -> Signature:
        if self.by_row:
            sizes = self._sizes(self.tiles.result_keys[1], "columns")
            again = self._where("erase", "weights_again", "found")
            tensors = ["q_until", "weights", *again, self.source, "positions", "states", "o"]
            return self._kernel(tensors, [self.source], sizes, stages=1)
        sizes = self._sizes(self.tiles.by_width(self.tiles.result_keys, "q"), "columns")
        strided = ["q", "k", self.source]
        tensors = [*strided, "positions", *self._where("log_decay", "log_decay"), "states", "o"]
        return self._kernel(tensors, strided, sizes, stages=1)

    @property
    def state_gradients(self) -> Signature:
        sizes = self._sizes(self.tiles.key_tile, self.tiles.state_columns)
        ends = ["dstate", "dstates"]
        if self.by_row:
            gates = self._where("beta", "positions", "beta")
            tensors = [
                "q_until",
                *self.decayed_keys,
                *self.squares_back,
                "do",
                *gates,
                *self.from_state,
                *ends,
            ]
            warps = "8 if do.dtype == torch.float32 else 4" if self.solved else 4
            return self._kernel(tensors, ["do"], sizes, warps=warps, stages=1)
        strided = ["q", *self._where("beta", "k"), "do"]
        solving = self._where("beta", "inverse", "weights", "dchange")
        stages = "1" if solving else "1 if q.dtype == torch.float32 else 2"
        tensors = [*strided, "positions", *self.optional, *solving, *ends]
        return self._kernel(tensors, strided, sizes, stages=stages)

    @property
    def gate_gradients(self) -> Signature:
        """Of values, of beta and of decays, without which it reads less."""
        tensors = ["q", "k", "v", "do", "positions", *self.optional, "weights", "stored", "dchange", "states"]
        tensors += ["dstates", "dv", *(f"d{name}" for name in self.optional)]
        sizes = self._sizes(self.tiles.gradient_keys[1], "columns")
        return self._of_values(tensors, ("q", "do", "weights", "dstates"), sizes)

    @property
    def value_gradients(self) -> Signature:
        """Of values and of decays, without which it reads less."""
        tensors = ["q", "k", "v", "do", "positions", "log_decay", "states", "dstates", "dv", "dlog_decay"]
        sizes = self._sizes(self.tiles.by_width(self.tiles.gradient_keys, "q"), "columns")
        return self._of_values(tensors, ("v", "log_decay", "states", "dlog_decay"), sizes)

    def _of_values(self, tensors: Sequence[str], of_decays: Sequence[str], sizes: _Sizes) -> Signature:
        read = [name for name in tensors if "log_decay" in self.optional or name not in of_decays]
        strided = [name for name in ("q", "k", "v", "do") if name in read]
        return self._kernel(read, strided, sizes, warps=8, stages=1)

    @property
    def key_gradients(self) -> Signature:
        strided = ["q", "k", self.source, "do"]
        tensors = [
            *strided,
            "positions",
            *self.optional,
            *self._where("beta", "dchange"),
            "states",
            "dstates",
        ]
        sizes = self._sizes(self.tiles.by_width(self.tiles.gradient_keys, "q"), "columns")
        return self._kernel([*tensors, "dq", "dk"], strided, sizes, stages=1)

    @property
    def pair_gradients(self) -> Signature:
        given = self._where("beta", "v", "beta", "pairs", "dchange") or self._where(
            "erase", "found", "dchange"
        )
        made = [*self.square_gradients, *self._where("beta", "dv", "dbeta")]
        sizes: _Sizes = {"VALUES": self.tiles.gradient_columns[1], "PARTS": "parts"}
        strided = [self.source, "do", *self._where("beta", "v")]
        return self._kernel([self.source, "do", "positions", *given, *made], strided, sizes, stages=1)

    @property
    def channel_gradients(self) -> Signature:
        strided = ["q", "k", self.source, "do"]
        changes = self._where("beta", "dchange") or self._where("erase", "found", "dchange")
        operands = [*self.reads, "log_decay", *self._where("beta", "beta")]
        made = [*self.square_gradients, *(f"d{name}" for name in operands)]
        tensors = [*strided, "positions", *self.optional, *changes, "states", "dstates", *made]
        sizes = self._sizes(self.tiles.gradient_keys[1], self.tiles.gradient_columns[1])
        return self._kernel(tensors, strided, sizes, warps=8 if "erase" in self.optional else 4, stages=1)

    def _kernel(
        self,
        tensors: Sequence[str],
        strided: Sequence[str],
        sizes: _Sizes,
        warps: int | str = 4,
        stages: int | str = "",
    ) -> Signature:
        sizes = {"CHUNK": self.tiles.tokens, **sizes}
        options: _Sizes = {"num_warps": warps, **({"num_stages": stages} if stages else {})}
        given = _HEADS if self.group > 1 else {}
        return signature(tensors, strided, ["tokens", "first", "last"], sizes, options, given)

    @staticmethod
    def _sizes(keys: int | str, values: int | str) -> _Sizes:
        return {"KEYS": keys, "VALUES": values, "PARTS": "parts"}
