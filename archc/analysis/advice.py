"""Rough hardware advice: sizes that a device's matrix units do not like, each as a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from archc.analysis.devices import Device
from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.logits import logits_of
from archc.ir.node import Node
from archc.ir.op import Trait
from archc.ir.ops.structure import APPEND
from archc.ir.types import Dim

_HEAD_DIMS = (64, 128, 256)
_ALIGNED = 8  # elements of 2 bytes in the 16 that one load takes
_VOCABULARY_STEP = 128
_GROUPS = (4, 3, 2)  # heads that share keys and values: as many as usual, or as the number of heads allows


def advice(root: Graph, device: Device) -> list[str]:
    """Notes on a model's sizes, none of them an error; `root` is the graph before linears are packed."""
    logits = logits_of(root)
    head = last_linear(root, root.outputs[logits.place][1]) if logits and not logits.books else None
    notes: list[str] = []
    for graph in root.walk():
        for node in graph.nodes():
            if node == head:
                notes += _vocabulary_notes(node.types[0].width)
            elif node.op.has(Trait.LINEAR):
                notes += _width_notes(node.types[0].width, device)
            elif node.op.past:
                notes += _attention_notes(graph, node)
    return list(dict.fromkeys(notes))


def _vocabulary_notes(rows: Dim) -> Iterator[str]:
    if isinstance(rows, int) and rows % _VOCABULARY_STEP:
        padded = _round_up(rows, _VOCABULARY_STEP)
        yield (
            f"the vocabulary of {rows:,} is no multiple of {_VOCABULARY_STEP}: with {padded:,} rows the head "
            "has whole tiles, and splits evenly over devices"
        )


def _width_notes(width: Dim, device: Device) -> Iterator[str]:
    if not isinstance(width, int):
        return
    if width % _ALIGNED:
        yield f"rows of {width:,} values are not aligned to 16 bytes in half precision"
    elif width > device.tile and width % device.tile:
        waste = 1 - width / _round_up(width, device.tile)
        yield (
            f"a linear map to {width:,} values fills {width / device.tile:.1f} tiles of {device.tile} "
            f"columns on {device.name}: {waste:.1%} of its work is padding"
        )


def _attention_notes(graph: Graph, node: Node) -> Iterator[str]:
    """On heads; operands that an op keeps of the past are [B, S, heads, width]."""
    query = node.types[0].shape
    for value in node.past:
        kept = graph.type(value).shape
        if len(kept) != 4 or len(query) != 4:
            continue
        heads, kv_heads, width = query[2], kept[2], kept[3]
        if width not in _HEAD_DIMS:
            yield f"heads of {width} values: attention kernels are made for 64, 128 and 256"
        is_kept = graph.node(value).op is APPEND  # and not made anew from something smaller
        if is_kept and heads == kv_heads and isinstance(heads, int):
            yield from _sharing_notes(heads)


def _sharing_notes(heads: int) -> Iterator[str]:
    group = next((group for group in _GROUPS if heads % group == 0), None)
    if group is not None:
        yield (
            f"each of {heads} heads has keys and values of its own: sharing them between {group} "
            f"heads makes the cache, and what decoding reads of it, {group} times smaller"
        )


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
