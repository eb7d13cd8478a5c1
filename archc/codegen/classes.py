"""Graphs -> classes: the model from the whole graph, a layer from each different loop body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from archc.codegen import schedule
from archc.codegen.class_plan import (
    Argument,
    Class,
    Fixed,
    Head,
    Layers,
    Line,
)
from archc.codegen.head import Cut, write_head
from archc.codegen.kept import KeptPart, appends, slot_code, trains
from archc.codegen.linear_kernel import linear_shape
from archc.codegen.linear_plan import LinearKernel
from archc.codegen.lines import Emitter
from archc.codegen.literals import shapes_text
from archc.codegen.loop_calls import LoopCall, argument_named, layer_modules, layer_options
from archc.codegen.loss_plan import LossKernel
from archc.codegen.names import attribute, class_name, identifier, layer_names, parameter_names
from archc.codegen.native_layers import plan_native_layers
from archc.codegen.native_plan import NativeLayer, NativeLayers
from archc.codegen.optional_values import may_be_none
from archc.codegen.parameters import Held, expert_texts, held_weights, parameter_of, weight_texts
from archc.codegen.semantics import Semantics
from archc.codegen.spans import is_span, read_off_spans, span_lines, with_spans
from archc.codegen.style import Style, no_loop
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value, stored_in
from archc.ir.ops.linear import EMBEDDING
from archc.ir.paths import path_text
from archc.ir.program import Sequence as Tokens
from archc.ir.program import captured_in, sequences

# Given a class's name, its doc, its graph, and what it calls the graph's inputs and weights.
PlanNative = Callable[[str, str, Graph, Mapping[Value, str], Mapping[int, str]], NativeLayer | None]


@dataclass
class ClassWriter:
    """Writes the classes of one module file."""

    semantics: Semantics
    kernels: Callable[[Graph, Node, list[str]], str]
    reserved: frozenset[str]
    optional: frozenset[tuple[int, int]] = frozenset()  # (graph, input) of values that may be None
    linear: LinearKernel | None = None
    few_rows: str = ""  # the function for all other linear maps by weights, "" for PyTorch's
    lookup: str = ""  # the function that looks up in a table, "" for PyTorch's
    native: PlanNative | None = None  # what makes the native code of layers
    classes: list[Class] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of all classes, those still being written included

    def model(
        self,
        name: str,
        doc: tuple[str, ...],
        graph: Graph,
        cached: bool,
        cut: Cut | None = None,
        loss: LossKernel | None = None,
    ) -> None:
        """The model's own class, after those of its layers; with a head of its own where there is a cut."""
        known = sequences(graph)
        given = read_off_spans(graph)
        extra = [Argument("*", ""), *(Argument(s.called("padding"), "Tensor | None = None") for s in known)]
        if cached:
            extra.append(Argument("cache", "Cache | None = None"))
        if trains(graph):
            extra.append(Argument("losses", "Losses | None = None"))
        body, weights = cut.body if cut else graph, held_weights(graph)
        built = self._class(name, doc, body, (), given, weights, cached)
        arguments = _optional_once([a for a in built.arguments if not is_span(a.name)], known, cached)
        start = span_lines(graph, [argument.name for argument in arguments], cached)
        advance = f"    cache.advance({known[-1].called('span')})"
        end = [Line("if cache is not None:"), Line(advance)] if cached else []
        self.classes.append(
            Class(
                name,
                doc,
                (),
                built.parameters,
                built.layers,
                built.state,
                (*arguments, *extra),
                (*start, *built.lines, *end),
                built.result,
                _result_type(len(graph.outputs)),
                self._head(cut, graph, loss, built.result) if cut and loss else None,
                built.fixed,
            )
        )

    def _head(self, cut: Cut, graph: Graph, loss: LossKernel, hidden: str) -> Head:
        texts = weight_texts(held_weights(graph), self._names(held_weights(graph), ()))
        style = Style(self.semantics, self.kernels, texts, self.reserved, no_loop)
        return write_head(cut, loss, hidden, style, self._function_for(cut.weight_shape))

    def _function_of(self, graph: Graph, node: Node) -> str:
        """The function for a node, "" where that is PyTorch's."""
        return self.lookup if node.op is EMBEDDING else self._function_for(linear_shape(graph, node))

    def _function_for(self, shape: tuple[int, int] | None) -> str:
        """The function for linear maps by a weight of a shape, "" where that is PyTorch's."""
        if self.linear and self.linear.has(shape):
            return f"kernels.{self.linear.name}"
        return self.few_rows if shape else ""

    def _class(
        self,
        name: str,
        doc: tuple[str, ...],
        graph: Graph,
        indices: tuple[str, ...],
        given: Mapping[Value, str],
        weights: list[Held] | None = None,
        caches: bool = False,
    ) -> Class:
        """A class of a graph; with `weights` besides those that it reads itself.  `caches`: as in `Style`."""
        weights = held_weights(graph) if weights is None else weights
        names = self._names(weights, indices)
        layers, calls = self._layers(graph, indices, {*names, *indices}, given)
        style = Style(
            self.semantics,
            self.kernels,
            weight_texts(weights, names),
            self.reserved,
            lambda node, targets, operands: calls[node.id].lines(targets, operands),
            none_for_zeros=may_be_none,
            function=self._function_of,
            caches=caches,
            of_experts=expert_texts(weights, names),
        )
        emitter = Emitter(graph, style)
        emitter.arguments(given)
        called = {value: emitter.variables.names[value] for value in graph.inputs}
        arguments = self._arguments(graph, list(called.values()))
        results = emitter.run()
        state = tuple((node.attributes["slot"], slot_code(node)) for node in appends(graph))
        return Class(
            name=name,
            doc=doc,
            indices=indices,
            parameters=tuple(parameter_of(held, n) for held, n in zip(weights, names, strict=True)),
            layers=tuple(layers),
            state=state,
            arguments=arguments,
            lines=_tidy(emitter.lines),
            result=", ".join(results),
            result_type=_result_type(len(results)),
            fixed=self._fixed(graph, style, given),
            native=(
                self.native(name, doc[0], graph, called, style.weights) if self.native and indices else None
            ),
        )

    def _fixed(self, graph: Graph, style: Style, given: Mapping[Value, str]) -> Fixed | None:
        """The method for what a graph keeps while tokens are added, if there is anything."""
        part = KeptPart(graph)
        if not part.keeps:
            return None
        alone = part.alone()
        emitter = Emitter(alone, replace(style, caches=False))
        emitter.arguments(given)
        arguments = self._arguments(alone, [emitter.variables.names[value] for value in alone.inputs])
        results = emitter.run()
        if part.trains:
            arguments = (*arguments, Argument("losses", "Losses | None"))
        return Fixed(
            arguments=arguments,
            lines=_tidy(emitter.lines),
            result=", ".join(results),
            result_type=_result_type(len(results)),
            shapes=shapes_text([graph.type(value).shape for value in part.values]),
        )

    def _names(self, weights: Sequence[Held], indices: Sequence[str]) -> list[str]:
        return parameter_names([stored_in(held.weight) for held in weights], indices)

    def _arguments(self, graph: Graph, names: Sequence[str]) -> tuple[Argument, ...]:
        """The arguments of a graph's class, given what its inputs are called."""
        inputs = {name: (id(graph), value.node) for value, name in zip(graph.inputs, names, strict=True)}
        arguments: list[Argument] = []
        for name in with_spans(names):
            kind = "Span" if is_span(name) else "Tensor"
            optional = inputs.get(name) in self.optional
            arguments.append(Argument(name, f"{kind} | None" if optional else kind))
        return tuple(arguments)

    def _layers(
        self, graph: Graph, indices: tuple[str, ...], taken: set[str], given: Mapping[Value, str]
    ) -> tuple[list[Layers], dict[int, LoopCall]]:
        """A module list for every loop, and by loop how it is called."""
        layers: list[Layers] = []
        calls: dict[int, LoopCall] = {}
        loops = graph.loops()
        for loop, segment in zip(loops, layer_names([loop.path for loop in loops]), strict=True):
            name = unique(attribute(segment), taken)
            taken.add(name)
            inner = (*indices, identifier(loop.attributes["variable"]))
            classes = self._bodies(loop, segment, inner, given)
            layers.append(Layers(name, layer_modules(loop, classes, inner)))
            stack = self._native_layers(loop, classes)
            options = [argument.name for argument in layer_options(loop)]
            calls[loop.id] = LoopCall(name, options, stack)
        return layers, calls

    def _bodies(
        self, loop: Node, segment: str, indices: tuple[str, ...], given: Mapping[Value, str]
    ) -> list[str]:
        """The classes of a loop's bodies; their names.

        `given`: the texts of what outside of the loop is read off the span.
        """
        names: list[str] = []
        order, steps = loop.attributes["schedule"], loop.attributes["indices"]
        for number, body in enumerate(loop.bodies):
            base = class_name(segment)
            if len(loop.bodies) > 1:
                base += str(steps[order.index(number)])
            name = unique(base, self.names)
            self.names.add(name)
            place = f"  {loop.span.line_reference}" if loop.span else ""
            doc = (f"{schedule.describe(order, number, steps)}, {path_text(loop.path)}.{place}",)
            built = self._class(name, doc, body, indices, captured_in(body, loop, given))
            self.classes.append(replace(built, arguments=(*built.arguments, *layer_options(loop))))
            names.append(name)
        return names

    def _native_layers(self, loop: Node, classes: Sequence[str]) -> NativeLayers | None:
        """A loop's native code; None unless all layers have it: each of those that do then calls its own."""
        places = {each.name: place for place, each in enumerate(self.classes) if each.name in classes}
        natives = [self.classes[place] for place in places.values() if self.classes[place].native]
        if not natives:
            return None
        kinds = [each.native for each in natives if each.native]
        operands = [argument_named(text, natives[0]) for text in kinds[0].operands]
        span = next(each for each in natives[0].arguments if each.annotation == "Span")
        name = unique("decode_layers", {*self.names, *(kind.function.name for kind in kinds)})
        stack = plan_native_layers(name, kinds, operands, span)
        if stack is None:
            return None
        self.names.add(name)
        for kind, (each, native) in enumerate(zip(natives, kinds, strict=True)):
            call = stack.call("[self]", native.operands)
            self.classes[places[each.name]] = replace(
                each, native_inputs=native.declaration(kind), native_call=call
            )
        self.classes[-1] = replace(self.classes[-1], stack=stack)
        return stack if len(natives) == len(loop.bodies) else None


def _optional_once(
    arguments: Sequence[Argument], known: Sequence[Tokens], cached: bool
) -> tuple[Argument, ...]:
    """A language model's arguments: tokens that a cache has seen to once may be None from then on."""
    if not cached or len(known) == 1:
        return tuple(arguments)
    return (*(Argument(a.name, "Tensor | None") for a in arguments[:-1]), arguments[-1])


def _result_type(count: int) -> str:
    return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"


def _tidy(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Without blank lines at the start or in a row."""
    kept: list[Line] = []
    for line in lines:
        blank = not str(line)
        if not (blank and (not kept or not str(kept[-1]))):
            kept.append(line)
    return tuple(kept)
