"""Where the nodes of a directed graph are drawn: in layers, callers to the left of what they call.

The usual method of layers (Sugiyama, Tagawa and Toda, 1981): edges that close a cycle are turned for the
time being; each node is in the layer after its last caller; an edge over several layers gets a place in each;
the order in a layer follows the mean place of the neighbours; then each is moved as near to them as the order
and the gaps permit. The picture depends on the nodes and the edges alone, never on numbers that change, so
that nothing moves while only numbers do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import attrs

NODE_WIDTH, NODE_HEIGHT = 176, 48
_ROW_GAP, _LAYER_GAP, _MARGIN = 22, 124, 10
_PLACE_HEIGHT = 8  # of an edge that passes a layer
_SWEEPS = 8
_ASIDE = 9  # pixels from the middle, for the lines of two that call each other

_Key = str | tuple[str, str, int]  # a node, or the place of an edge in a layer
_Neighbours = Mapping[_Key, Sequence[_Key]]


@attrs.frozen
class Layout:
    """Positions in pixels."""

    width: int
    height: int
    nodes: Mapping[str, tuple[int, int]]
    """The upper left corner of each node."""
    edges: Mapping[tuple[str, str], Sequence[tuple[int, int]]]
    """The points that each edge goes through, from its caller to its target."""


def layout(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Return the positions of nodes, and of the edges between them. Edges to oneself are left out."""
    wanted = sorted({(a, b) for a, b in edges if a != b})
    turned = _cycle_edges(sorted(nodes), wanted)
    forward = sorted({(b, a) if (a, b) in turned else (a, b) for a, b in wanted})
    layer_of = _layers(sorted(nodes), forward)
    chains = {edge: _chain(edge, layer_of) for edge in forward}
    layers = _in_layers(layer_of, chains)
    before, after = _neighbours(chains)
    _order(layers, before, after)
    tops = _tops(layers, before, after)
    return _drawn(layers, tops, chains, wanted, turned)


def _cycle_edges(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return edges without which there is no cycle: those that lead back in a depth-first search."""
    targets: dict[str, list[str]] = {node: [] for node in nodes}
    called = {b for _, b in edges}
    for a, b in edges:
        targets[a].append(b)
    back: set[tuple[str, str]] = set()
    done: set[str] = set()
    for root in sorted(nodes, key=lambda node: node in called):  # first those that nobody calls
        path = [(root, iter(targets[root]))] if root not in done else []
        on_path = {root}
        while path:
            node, rest = path[-1]
            target = next(rest, None)
            if target is None:
                path.pop()
                on_path.discard(node)
                done.add(node)
            elif target in on_path:
                back.add((node, target))
            elif target not in done:
                path.append((target, iter(targets[target])))
                on_path.add(target)
    return back


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the layer of each node: the length of the longest way to it."""
    layer = dict.fromkeys(nodes, 0)
    waits_for = dict.fromkeys(nodes, 0)
    targets: dict[str, list[str]] = {node: [] for node in nodes}
    for a, b in edges:
        targets[a].append(b)
        waits_for[b] += 1
    ready = [node for node in nodes if not waits_for[node]]
    while ready:
        node = ready.pop()
        for target in targets[node]:
            layer[target] = max(layer[target], layer[node] + 1)
            waits_for[target] -= 1
            if not waits_for[target]:
                ready.append(target)
    return layer


def _chain(edge: tuple[str, str], layer_of: Mapping[str, int]) -> list[_Key]:
    a, b = edge
    return [a, *((a, b, number) for number in range(layer_of[a] + 1, layer_of[b])), b]


def _in_layers(layer_of: Mapping[str, int], chains: Mapping[tuple[str, str], list[_Key]]) -> list[list[_Key]]:
    layers: list[list[_Key]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for node, number in layer_of.items():
        layers[number].append(node)
    for chain in chains.values():
        for place in chain[1:-1]:
            layers[int(place[2])].append(place)
    return layers


def _neighbours(chains: Mapping[tuple[str, str], list[_Key]]) -> tuple[_Neighbours, _Neighbours]:
    before: dict[_Key, list[_Key]] = {}
    after: dict[_Key, list[_Key]] = {}
    for chain in chains.values():
        for one, next_one in pairwise(chain):
            after.setdefault(one, []).append(next_one)
            before.setdefault(next_one, []).append(one)
    return before, after


def _order(layers: list[list[_Key]], before: _Neighbours, after: _Neighbours) -> None:
    """Sort each layer by the mean place of the neighbours, forth and back."""
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        neighbours = before if forth else after
        sequence = range(1, len(layers)) if forth else range(len(layers) - 2, -1, -1)
        for number in sequence:
            beside = layers[number - 1 if forth else number + 1]
            place = {key: float(index) for index, key in enumerate(beside)}
            own = {key: float(index) for index, key in enumerate(layers[number])}
            layers[number].sort(key=lambda key: _mean(neighbours.get(key, ()), place, own[key]))


def _mean(keys: Sequence[_Key], place: Mapping[_Key, float], otherwise: float) -> float:
    return sum(place[key] for key in keys) / len(keys) if keys else otherwise


def _height(key: _Key) -> int:
    return NODE_HEIGHT if isinstance(key, str) else _PLACE_HEIGHT


def _tops(layers: list[list[_Key]], before: _Neighbours, after: _Neighbours) -> dict[_Key, float]:
    """Return the upper side of each, as near to its neighbours as the order and the gaps permit."""
    middle: dict[_Key, float] = {}
    for layer in layers:
        at = 0.0
        for key in layer:
            middle[key] = at + _height(key) / 2
            at += _height(key) + _ROW_GAP
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        neighbours = before if forth else after
        for layer in layers if forth else reversed(layers):
            wanted = [_mean(neighbours.get(key, ()), middle, middle[key]) for key in layer]
            apart = _apart(wanted, [_height(key) for key in layer])
            middle.update(zip(layer, apart, strict=True))
    least = min((middle[key] - _height(key) / 2 for key in middle), default=0.0)
    return {key: value - _height(key) / 2 - least for key, value in middle.items()}


def _apart(wanted: Sequence[float], heights: Sequence[int]) -> list[float]:
    """Return the middles nearest to those that are wanted (least squares) that keep order and gaps.

    With the gaps taken off, it is an isotonic regression: blocks that overlap are joined at their mean.
    """
    offsets = [0.0]
    for one, next_one in pairwise(heights):
        offsets.append(offsets[-1] + (one + next_one) / 2 + _ROW_GAP)
    blocks: list[tuple[float, int]] = []  # mean, how many
    for value, offset in zip(wanted, offsets, strict=False):
        mean, count = value - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _drawn(
    layers: list[list[_Key]],
    tops: Mapping[_Key, float],
    chains: Mapping[tuple[str, str], list[_Key]],
    wanted: Sequence[tuple[str, str]],
    turned: set[tuple[str, str]],
) -> Layout:
    left = {key: number * (NODE_WIDTH + _LAYER_GAP) for number, layer in enumerate(layers) for key in layer}
    corner = {key: (left[key] + _MARGIN, round(tops[key]) + _MARGIN) for key in left}
    edges: dict[tuple[str, str], Sequence[tuple[int, int]]] = {}
    for a, b in wanted:
        points = _points(chains[b, a], corner)[::-1] if (a, b) in turned else _points(chains[a, b], corner)
        if (b, a) in wanted:  # the two lines are beside each other
            aside = _ASIDE if a < b else -_ASIDE
            points = [(x, y + aside) for x, y in points]
        edges[a, b] = points
    width = len(layers) * (NODE_WIDTH + _LAYER_GAP) - _LAYER_GAP if layers else 0
    height = max((round(tops[key]) + _height(key) for key in tops), default=0)
    return Layout(
        width=width + 2 * _MARGIN,
        height=height + 2 * _MARGIN,
        nodes={key: at for key, at in corner.items() if isinstance(key, str)},
        edges=edges,
    )


def _points(chain: Sequence[_Key], corner: Mapping[_Key, tuple[int, int]]) -> list[tuple[int, int]]:
    points: list[tuple[int, int]] = []
    for place, key in enumerate(chain):
        x, y = corner[key][0], corner[key][1] + _height(key) // 2
        if place > 0:
            points.append((x, y))
        if place < len(chain) - 1:
            points.append((x + NODE_WIDTH, y))
    return points
