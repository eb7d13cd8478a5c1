"""Graphs -> classes: the model from the whole graph, a layer from each different loop body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from archc.codegen.code import Argument, Line
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.literals import result_type
from archc.codegen.modules import schedule
from archc.codegen.modules.class_plan import Class, Head, Layers
from archc.codegen.modules.front import front_lines, texts_of, without_front
from archc.codegen.modules.functions import Functions
from archc.codegen.modules.head import Cut, write_head
from archc.codegen.modules.kept import appends, slot_code, trains
from archc.codegen.modules.lines import Emitter
from archc.codegen.modules.loop_calls import LoopCall, layer_modules, layer_options
from archc.codegen.modules.methods import write_fixed, write_method
from archc.codegen.modules.native_classes import join_native_layers
from archc.codegen.modules.parameters import Held, expert_texts, held_weights, parameter_of, weight_texts
from archc.codegen.modules.spans import is_span, read_off_spans, span_lines
from archc.codegen.modules.style import Style
from archc.codegen.names import attribute, class_name, identifier, layer_names, parameter_names
from archc.codegen.native.native_plan import NativeLayer, NativeLayers
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value, stored_in
from archc.ir.paths import path_text
from archc.ir.program import Sequence as Tokens
from archc.ir.program import (
    captured_in,
    front_of,
    given_inputs,
    grows,
    packs_documents,
    sequences,
    tokens_of,
)

# Given a class's name, its doc, its graph, and what it calls the graph's inputs and weights.
PlanNative = Callable[[str, str, Graph, Mapping[Value, str], Mapping[int, str]], NativeLayer | None]


@dataclass
class ClassWriter:
    """Writes the classes of one module file.

    style:    of all their statements, but for the texts of weights and of loops
    optional: inputs that may be None, as (graph, input)
    native:   what makes the native code of layers
    names:    of all classes, those still being written included
    """

    style: Style
    functions: Functions = field(default_factory=Functions)
    optional: frozenset[tuple[int, int]] = frozenset()
    native: PlanNative | None = None
    classes: dict[str, Class] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def model(
        self,
        name: str,
        doc: tuple[str, ...],
        graph: Graph,
        cached: bool,
        following: Graph | None = None,
        cut: Cut | None = None,
        loss: LossKernel | None = None,
    ) -> None:
        """The model's own class, after those of its layers; with a head of its own where there is a cut.

        following: as in `Program`
        """
        known = sequences(graph)
        body, weights = cut.body if cut else graph, held_weights(graph)
        built = self._class(name, doc, body, (), read_off_spans(graph), weights, cached)
        arguments = _optional_once(graph, [a for a in built.arguments if not is_span(a.name)], cached)
        names = [argument.name for argument in arguments]
        head = self._head(cut, weights, loss, texts_of(built.result)) if cut and loss else None
        start = [*front_lines(graph, names, cached), *span_lines(graph, names, cached, self.style.packed)]
        advance = f"    cache.advance({known[-1].called('span')})"
        end = [Line("if cache is not None:"), Line(advance)] if cached else []
        self.classes[name] = replace(
            built,
            arguments=(*arguments, *_options(graph, known, cached)),
            lines=(
                *_check(graph, arguments, cached),
                *([] if self.style.packed else _in_rows(graph, names, head)),
                *_check_kept(graph, names, cached),
                *start,
                *built.lines,
                *end,
            ),
            result=without_front(body, built.result) if front_of(graph) else built.result,
            result_type=result_type(len(graph.outputs)),
            head=head,
            following=write_method(Emitter(following, self.style), {}, ()) if following else None,
        )

    def _head(self, cut: Cut, weights: Sequence[Held], loss: LossKernel, results: list[str]) -> Head:
        style = replace(self.style, weights=weight_texts(weights, _names(weights, ())))
        return write_head(cut, loss, results, style, self.functions.of_weight(cut.weight_shape))

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
        names = _names(weights, indices)
        layers, calls = self._layers(graph, indices, {*names, *indices}, given)
        style = replace(
            self.style,
            weights=weight_texts(weights, names),
            loop=lambda node, targets, operands: calls[node.id].lines(targets, operands),
            function=self.functions.of,
            of_experts=expert_texts(weights, names),
        )
        emitter = Emitter(graph, replace(style, caches=caches))
        method = write_method(emitter, given, self.optional)
        native = self.native if indices else None
        return Class(
            name=name,
            doc=doc,
            indices=indices,
            parameters=tuple(parameter_of(held, n) for held, n in zip(weights, names, strict=True)),
            layers=tuple(layers),
            state=tuple((node.attributes["slot"], slot_code(node)) for node in appends(graph)),
            arguments=method.arguments,
            lines=method.lines,
            result=method.result,
            result_type=method.result_type,
            fixed=write_fixed(graph, style, given, self.optional),
            native=native(name, doc[0], graph, emitter.called, style.weights) if native else None,
        )

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
            options = [argument.name for argument in layer_options(loop)]
            calls[loop.id] = LoopCall(name, options, self._native_layers(classes))
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
            path = f", {path_text(loop.path)}" if loop.path else ""
            doc = (f"{schedule.describe(order, number, steps)}{path}.{place}",)
            built = self._class(name, doc, body, indices, captured_in(body, loop, given))
            if loop.attributes["entering"] != loop.attributes["carried"]:
                built = replace(built, native=None)  # its code puts results in the place of operands
            built = replace(built, arguments=(*built.arguments, *layer_options(loop)))
            others = [self.classes[other] for other in names if not self.classes[other].base]
            parent = next((other for other in others if built.extends(other)), None)
            if parent:
                built = replace(built, base=parent, doc=(*doc, f"Its parameters are those of {parent.name}."))
            self.classes[name] = built
            names.append(name)
        return names

    def _native_layers(self, names: Sequence[str]) -> NativeLayers | None:
        """A loop's native code; None unless all layers have it: each of those that do then calls its own."""
        layers = [self.classes[name] for name in names]
        joined = join_native_layers(layers, self.names)
        stack = joined[-1].stack if joined else None
        if joined is None or stack is None:
            return None
        self.classes.update({each.name: each for each in joined})
        self.names.add(stack.name)
        return stack if all(each.native for each in layers) else None


def _names(weights: Sequence[Held], indices: Sequence[str]) -> list[str]:
    return parameter_names([stored_in(held.weight) for held in weights], indices)


def _check(graph: Graph, arguments: Sequence[Argument], cached: bool) -> list[Line]:
    """The refusal of inputs, and of a cache, that a model does not take."""
    names = [*(a.name for a in arguments), *(each.called("padding") for each in sequences(graph))]
    documents = ["documents"] if packs_documents(graph) else []
    inputs = Line(f"check_inputs({', '.join(['self', *names, *documents])})")
    return [inputs, Line(f"check_cache({', '.join(['self', 'cache', *documents])})")] if cached else [inputs]


def _in_rows(graph: Graph, names: Sequence[str], head: Head | None) -> list[Line]:
    """The method's call of itself for documents that share rows; `names` are those of its arguments."""
    if not packs_documents(graph):
        return []
    method = "forward" if head is None else "before_head" if head.results else "hidden"
    losses = ["losses=losses"] if trains(graph) else []
    call = f"in_rows({', '.join([f'self.{method}', 'documents', *names, *losses])})"
    return [Line("if documents is not None:"), Line(f"    return {call}")]


def _check_kept(graph: Graph, names: Sequence[str], cached: bool) -> list[Line]:
    """The refusal of None for what a cache has not taken in yet; `fixed_span` refuses it for tokens."""
    tokens = [tokens_of(graph, each) for each in sequences(graph)]
    inputs = zip(names, given_inputs(graph), strict=True)
    kept = [name for name, value in inputs if cached and value not in tokens and not grows(graph, value)]
    return [Line(f"check_kept({', '.join(['cache', *(f'{name}={name}' for name in kept)])})")] if kept else []


def _options(graph: Graph, known: Sequence[Tokens], cached: bool) -> list[Argument]:
    """What a model takes by keyword: paddings, documents, a cache, and what collects losses."""
    options = [Argument("*", ""), *(Argument(s.called("padding"), "Tensor | None = None") for s in known)]
    if packs_documents(graph):
        options.append(Argument("documents", "Tensor | None = None"))
    if cached:
        options.append(Argument("cache", "Cache | None = None"))
    if trains(graph):
        options.append(Argument("losses", "Losses | None = None"))
    return options


def _optional_once(graph: Graph, arguments: Sequence[Argument], cached: bool) -> tuple[Argument, ...]:
    """A model's arguments; what a cache takes in once may be None afterwards."""
    once = [cached and not grows(graph, value) for value in given_inputs(graph)]
    told = zip(arguments, once, strict=True)
    return tuple(Argument(a.name, "Tensor | None") if optional else a for a, optional in told)
