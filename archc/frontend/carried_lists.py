"""Lists of tensors that loops carry: each tensor has its own name, and the list is rebuilt from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archc.frontend.values import Handle, List
from archc.ir.names import unique


@dataclass(frozen=True)
class Slot:
    """The place in a list of the tensor that is carried under a name."""

    name: str


@dataclass(frozen=True)
class Items:
    """A list with tensors; in their place stand slots."""

    items: tuple[Any, ...]


def apart(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name, where each list with tensors becomes `Items`, and its tensors values after it."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, List) and any(value.tensors()):
            tensors: dict[str, Any] = {}
            found[name] = _items(value, name, tensors, {*values, *found})
            found.update(tensors)
        else:
            found[name] = value
    return found


def _items(value: List, name: str, tensors: dict[str, Any], taken: Collection[str]) -> Items:
    items: list[Any] = []
    for place, item in enumerate(value):
        own = f"{name}_{place}"
        if isinstance(item, List):
            items.append(_items(item, own, tensors, taken))
        elif isinstance(item, Handle):
            slot = unique(own, {*taken, *tensors})
            tensors[slot] = item
            items.append(Slot(slot))
        else:
            items.append(item)
    return Items(tuple(items))


def together(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `apart` was given."""
    slots = {slot for value in values.values() for slot in _slots(value)}
    return {name: _whole(value, values) for name, value in values.items() if name not in slots}


def _slots(value: Any) -> Iterator[str]:
    if isinstance(value, Slot):
        yield value.name
    elif isinstance(value, Items):
        for item in value.items:
            yield from _slots(item)


def _whole(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Slot):
        return values[value.name]
    if isinstance(value, Items):
        return List.of(*(_whole(item, values) for item in value.items))
    return value
