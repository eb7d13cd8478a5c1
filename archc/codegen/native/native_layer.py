"""A layer's decoding step as a single C++ function, which calls those of its ops one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.kernel_plan import Kernel, OpKernel
from archc.codegen.kernels.linear.linear_kernel import linear_shape
from archc.codegen.literals import size_code
from archc.codegen.modules.kept import kept_by
from archc.codegen.modules.spans import is_span, with_spans
from archc.codegen.native.native_plan import (
    NativeAttention,
    NativeCall,
    NativeFunction,
    NativeInput,
    NativeLayer,
    NativeResult,
    cpp_name,
)
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.ops.structure import APPEND, INPUT, RECENT, WEIGHT
from archc.ir.rule import rule_of
from archc.ir.types import DType

_RENAMED = ("split_heads", "merge_heads")  # the same values in another shape
_SIZES = ("rows", "table_tokens", "max_length", "length")


def plan_native_layer(
    kernel: Callable[[Graph, Node], Kernel],
    name: str,
    doc: str,
    graph: Graph,
    arguments: Mapping[Value, str],
    weights: Mapping[int, str],
) -> NativeLayer | None:
    """The function of a layer's body; None where one of its ops has no native code.

    kernel:    the plan of a fused node
    arguments: the graph's inputs, as the layer's class, of that name, calls them
    weights:   the texts of its weights, `self.name`, by their nodes' ids
    """
    layer = _Layer(graph, kernel)
    rows = [value for value in graph.inputs if layer.is_rows(value)]
    keeps = any(node.op is APPEND for node in graph.nodes())
    spans = [text for text in with_spans([*arguments.values()]) if is_span(text)]
    if not (rows and keeps and len(spans) == 1 and all(map(layer.has_code, graph.nodes()))):
        return None
    return _Writer(layer, arguments, weights).plan(f"decode_{name.lower()}", doc)


@dataclass(frozen=True)
class _Layer:
    """A body, and which of its nodes have native code."""

    graph: Graph
    kernel: Callable[[Graph, Node], Kernel]

    def has_code(self, node: Node) -> bool:
        """Whether a node has native code, or needs none."""
        if node.op in (INPUT, RECENT):
            return all(self.is_tensor(value) or self._only_places(value) for value in node.outputs)
        if node.op is WEIGHT:
            return node.types[0].dtype is DType.FLOAT
        if node.op is APPEND:
            readers = [reader for reader, _ in self.graph.users(node.outputs[0])]
            return all(self.native(reader) and node in kept_by(self.graph, reader) for reader in readers)
        if rule_of(node):
            return self.native(node) is not None
        return linear_shape(self.graph, node) is not None or node.op.name in (*_RENAMED, "split")

    def native(self, node: Node) -> NativeCall | NativeAttention | None:
        """The function of a fused node."""
        kernel = self.kernel(self.graph, node) if rule_of(node) else None
        if isinstance(kernel, AttentionKernel):
            kept = kept_by(self.graph, node)
            lengths = {each.attributes["length"] for each in kept}
            return kernel.native if kernel.native and lengths == {kernel.native.window} else None
        return kernel.native.call if isinstance(kernel, OpKernel) and kernel.native else None

    def _only_places(self, value: Value) -> bool:
        """Whether a value only gives attention the positions of tokens."""
        readers = [reader for reader, _ in self.graph.users(value)]
        return all(each.op is RECENT or isinstance(self.native(each), NativeAttention) for each in readers)

    def is_tensor(self, value: Value) -> bool:
        return self.graph.type(value).dtype in (DType.FLOAT, DType.F32)

    def is_rows(self, value: Value) -> bool:
        """Whether a value has a row of the model's dtype for each token."""
        type_ = self.graph.type(value)
        return type_.dtype is DType.FLOAT and type_.shape[:2] == ("B", "T")

    def width(self, value: Value) -> int:
        """How many numbers a value has for a token."""
        return math.prod(int(dim) for dim in self.graph.type(value).shape[2:])

    def shape(self, value: Value) -> str:
        """A token's dims, in Python."""
        return ", ".join(size_code(dim) for dim in self.graph.type(value).shape[2:])


class _Writer:
    """Writes a layer's statements; each value is a pointer in them."""

    def __init__(self, layer: _Layer, arguments: Mapping[Value, str], weights: Mapping[int, str]):
        self.layer = layer
        self.graph = layer.graph
        self.called = arguments
        self.given = {value: text for value, text in arguments.items() if layer.is_tensor(value)}
        self.weights = weights
        self.texts: dict[Value, str] = {}
        self.read: set[Value] = set()
        self.lines: list[str] = []
        self.caches: dict[str, str] = {}  # pointers to the cache, by slot
        self._names = {*_SIZES, "workspace", "team"}
        self._width = 0  # how many intermediate values a token has

    def plan(self, name: str, doc: str) -> NativeLayer | None:
        """The function; None where a result of the layer is no value of its own."""
        for value in self._known():
            self.texts[value] = self._new(
                (self.given.get(value) or self.weights[value.node]).removeprefix("self.")
            )
        outputs = [value for _, value in self.graph.outputs]
        sources = {value: self._source(value) for value in outputs}
        if not self._are_own(sources):
            return None
        made = {
            value: self._new(f"{label}_out") for label, value in self.graph.outputs if value not in self.texts
        }
        self.texts.update(made)
        self.texts.update((sources[value], text) for value, text in made.items())
        for node in self.graph.nodes():
            self._write(node)
        read = [value for value in self._known() if value in self.read]
        inputs = [value for value in read if value in self.given]
        weights = [value for value in read if value not in self.given]
        pointers = [
            f"const {'float' if self._is_table(value) else 'T'}* {self.texts[value]}" for value in read
        ]
        pointers += [f"T* {text}" for text in (*self.caches.values(), *made.values(), "workspace")]
        has_tables = any(map(self._is_table, inputs))
        sizes = [size for size in _SIZES if has_tables or size != "table_tokens"]
        return NativeLayer(
            function=NativeFunction(name, tuple(pointers), tuple(sizes)),
            doc=doc,
            operands=tuple(self.called[value] for value in self.graph.inputs),
            inputs=tuple(
                NativeInput(self.graph.inputs.index(value), self._is_table(value)) for value in inputs
            ),
            weights=tuple(map(self._weight, weights)),
            slots=tuple(self.caches),
            results=tuple(map(self._result, outputs)),
            passed_through=tuple(self._weight(v) for v in outputs if v not in made and v not in weights),
            lines=tuple(self.lines),
            workspace=self._width,
        )

    def _source(self, value: Value) -> Value:
        """The value that another one is, in its own shape."""
        node = self.graph.node(value)
        return self._source(node.first) if node.op.name in _RENAMED else value

    def _are_own(self, sources: Mapping[Value, Value]) -> bool:
        """Whether no result is an operand, or a weight or another result in a shape of its own."""
        return len({*sources.values()}) == len(sources) and all(
            source not in self.given and (source == value or source not in self.texts)
            for value, source in sources.items()
        )

    def _known(self) -> list[Value]:
        """The values that the caller has: the layer's operands and weights."""
        return [*self.given, *(node.outputs[0] for node in self.graph.weights())]

    def _is_table(self, value: Value) -> bool:
        return self.graph.type(value).dtype is DType.F32

    def _weight(self, value: Value) -> str:
        """The name of the parameter that a value is, "" for none."""
        return self.weights.get(value.node, "").removeprefix("self.")

    def _result(self, value: Value) -> NativeResult:
        if weight := self._weight(value):
            return NativeResult(weight, "", 0)
        return NativeResult("", self.layer.shape(value), self.layer.width(value))

    def _write(self, node: Node) -> None:
        native = self.layer.native(node)
        if isinstance(native, NativeAttention):
            self._attention(node, native)
        elif native is not None:
            self._call(node, native)
        elif node.op.name in _RENAMED:
            self.texts[node.outputs[0]] = self._read(node.inputs[0])
        elif node.op.name == "split":
            self._split(node)
        elif shape := linear_shape(self.graph, node):
            given = [*map(self._read, node.inputs), *map(self._make, node.outputs)]
            self._add("linear", [*given, "rows", *map(str, shape)])

    def _call(self, node: Node, call: NativeCall) -> None:
        kernel = self.layer.kernel(self.graph, node)
        assert isinstance(kernel, OpKernel)
        operands = dict(zip(kernel.op.names, node.operands, strict=True))  # as the kernel calls them
        names = call.arguments[: len(call.function.pointers) - len(node.outputs)]
        given = [*(self._read(operands[name]) for name in names), *map(self._make, node.outputs)]
        value = operands[call.checked[0]]
        many = self.layer.width(value) // call.width  # rows for a token
        rows = "rows" if many == 1 else f"{many} * rows"
        self._add(call.function.name, [*given, rows, *call.function.sizes[1:]])

    def _attention(self, node: Node, native: NativeAttention) -> None:
        kept = kept_by(self.graph, node)
        new = [self._read(node.inputs[0]), *(self._read(each.inputs[0]) for each in kept)]
        slots = [each.attributes["slot"] for each in kept]
        self.caches.update((slot, self._new(f"{slot}_cache")) for slot in slots)
        pointers = [*new, *(self.caches[slot] for slot in slots), self._make(node.outputs[0])]
        room = self._room(native.window) if native.window else "max_length"
        self._add(native.function.name, [*pointers, "rows", room, "length"])

    def _room(self, window: int) -> str:
        """How many tokens a ring has room for."""
        name = self._new("room")
        self.lines.append(f"const int64_t {name} = std::min<int64_t>(max_length, {window});")
        return name

    def _split(self, node: Node) -> None:
        """Copies the columns of each part: they are not contiguous where there are several rows."""
        source = node.first
        width, first = int(self.graph.type(source).width), 0
        many = self.layer.width(source) // width  # rows for a token: its heads
        rows = "rows" if many == 1 else f"{many} * rows"
        for value in node.outputs:
            part = int(self.graph.type(value).width)
            given = [self._read(source), self._make(value), width, first, part, rows]
            self._add("copy_columns", list(map(str, given)))
            first += part

    def _add(self, function: str, arguments: list[str]) -> None:
        self.lines.append(f"{function}_kernel<T>({', '.join(['team', *arguments])});")

    def _read(self, value: Value | None) -> str:
        if value is None:
            return "nullptr"
        self.read.add(value)
        return self.texts[value]

    def _make(self, value: Value) -> str:
        """Where a value is written: a result to the caller's tensor, anything else to the workspace."""
        if value not in self.texts:
            name = self._new(self.graph.name_of(value) or self._wanted(self.graph.node(value), value.output))
            self.lines.append(
                f"T* const {name} = workspace{f' + {self._width} * rows' if self._width else ''};"
            )
            self.texts[value] = name
            self._width += self.layer.width(value)
        return self.texts[value]

    def _wanted(self, node: Node, output: int) -> str:
        rule = rule_of(node)
        if rule is not None:
            return rule.output_names[output].removesuffix("_out")
        weight = self.weights.get(node.inputs[1].node) if len(node.inputs) > 1 and node.inputs[1] else None
        return weight.removeprefix("self.").removesuffix("_proj") if weight else node.op.name

    def _new(self, wanted: str) -> str:
        name = unique(cpp_name(wanted), self._names)
        self._names.add(name)
        return name
