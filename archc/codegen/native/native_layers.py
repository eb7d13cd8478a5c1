"""The decoding step of all layers of a loop as a single C++ function, which calls that of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archc.codegen.code import Argument
from archc.codegen.native.native_plan import (
    NativeFunction,
    NativeInput,
    NativeLayer,
    NativeLayers,
    NativeResult,
    NativeStep,
    cpp_name,
)
from archc.ir.names import unique

_TAKEN = (
    *("addresses", "cache", "kinds", "layer", "layers", "length", "max_length", "pointers"),
    *("rows", "sizes", "table_tokens", "team", "tensors", "workspace"),
)


def plan_native_layers(
    name: str, kinds: Sequence[NativeLayer], operands: Sequence[Argument], span: Argument
) -> NativeLayers | None:
    """The function of a loop's layers; None without any, or where they pass different weights through.

    name:     of the function
    kinds:    the different layers, those that have native code
    operands: the loop's operands, as one of the layers names them; a layer's results replace the first ones
    """
    if not kinds or len({tuple(each.weight for each in kind.results) for kind in kinds}) > 1:
        return None
    inputs = {each.place: each for kind in kinds for each in kind.inputs}
    return _Writer(kinds, [inputs[place] for place in sorted(inputs)], operands).plan(name, span)


class _Writer:
    def __init__(
        self, kinds: Sequence[NativeLayer], inputs: Sequence[NativeInput], operands: Sequence[Argument]
    ):
        self.kinds = kinds
        self.inputs = inputs
        self.results = kinds[0].results
        self.names: dict[int, str] = {}
        places = {*(each.place for each in inputs), *range(len(self.results))}
        for place in sorted(places):
            self.names[place] = unique(cpp_name(operands[place].name), {*_TAKEN, *self.names.values()})
        self.arguments = [
            Argument(self.names[each.place], operands[each.place].annotation) for each in inputs
        ]

    def plan(self, name: str, span: Argument) -> NativeLayers:
        tables = [self.names[each.place] for each in self.inputs if each.is_table]
        rows = [self.names[each.place] for each in self.inputs if not each.is_table]
        first = next(
            each.name for each in self.arguments if each.name in rows and each.annotation == "Tensor"
        )
        made = [(self.names[place], each) for place, each in enumerate(self.results) if not each.weight]
        return NativeLayers(
            name=name,
            function=self._function(name, [text for text, _ in made], bool(tables)),
            places=tuple(each.place for each in self.inputs),
            arguments=(*self.arguments, span, Argument("cache", "Cache | None")),
            first=first,
            others=tuple(text for text in rows if text != first),
            tables=tuple(tables),
            made=tuple((text, each.shape, each.width) for text, each in made),
            carried=tuple(text for text, _ in made if text in rows),
            results=tuple(self._result(place, each) for place, each in enumerate(self.results)),
            steps=tuple(map(self._step, self.kinds)),
            workspace=sum(each.width for _, each in made) + max(kind.workspace for kind in self.kinds),
        )

    def _function(self, name: str, made: Iterable[str], has_tables: bool) -> NativeFunction:
        pointers = [
            f"const {'float' if each.is_table else 'T'}* {self.names[each.place]}" for each in self.inputs
        ]
        pointers += ["const int64_t* kinds"] if len(self.kinds) > 1 else []
        pointers += ["T* const* tensors", *(f"T* {text}_out" for text in made)]
        table_tokens = ["table_tokens"] if has_tables else []
        return NativeFunction(
            name, tuple(pointers), ("layers", "rows", *table_tokens, "max_length", "length")
        )

    def _result(self, place: int, result: NativeResult) -> str:
        return f"last.{result.weight}" if result.weight else f"{self.names[place]}_out"

    def _step(self, kind: NativeLayer) -> NativeStep:
        given = ["team", *(self.names[each.place] for each in kind.inputs)]
        given += [f"tensors[{place}]" for place in range(len(kind.weights) + len(kind.slots))]
        given += [f"{self.names[place]}_next" for place, each in enumerate(self.results) if not each.weight]
        given.append("workspace")
        read = [each.place for each in self.inputs]
        passed_through = [
            f"{self.names[place]} = tensors[{kind.place(each.weight)}];"
            for place, each in enumerate(kind.results)
            if each.weight and place in read
        ]
        call = f"{kind.function.kernel}<T>({', '.join([*given, *kind.function.sizes])});"
        return NativeStep(call, tuple(passed_through), len(kind.tensors))
