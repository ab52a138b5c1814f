"""The graph of who calls whom, as it is drawn: which nodes, where, and what stands on the edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import attrs

from cpg_trio import _human
from cpg_trio.host.admin.dashboard._layout import NODE_HEIGHT, NODE_WIDTH, Layout, layout
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

MAX_NODES = 40
"""How many nodes are drawn: more cannot be read, and the table has them all."""

_MANY_CALLS = 100  # a second, from which on an edge is drawn at its widest
_SOME_CALLS = 5


@attrs.frozen
class Node:
    """A node in its place."""

    node: pb.GraphNode
    x: int
    y: int


@attrs.frozen
class Line:
    """All edges from one node to another, which are drawn as one line."""

    caller: str
    target: str
    missing: bool
    edges: Sequence[pb.Edge]
    path: str
    """As SVG writes it."""
    label_x: int
    label_y: int

    @property
    def available(self) -> bool:
        return all(edge.available for edge in self.edges)

    @property
    def calls_per_second(self) -> float:
        return sum(edge.calls.calls_per_second for edge in self.edges)

    @property
    def has_calls(self) -> bool:
        return any(edge.calls.calls for edge in self.edges)

    @property
    def failed(self) -> str:
        """The share of calls that failed; empty if none has."""
        failed, calls = (
            sum(getattr(edge.calls, name) for edge in self.edges) for name in ("failed", "calls")
        )
        return _human.share(failed, calls) if failed else ""

    @property
    def p95(self) -> float | None:
        """That of the slowest of its services, in seconds; None without calls."""
        known = [edge.calls.p95 for edge in self.edges if edge.calls.HasField("p95")]
        return max(map(_human.seconds_of, known), default=None)

    @property
    def weight(self) -> int:
        """How wide it is drawn, from 0 (no calls) to 3."""
        if not self.calls_per_second:
            return 0
        return 1 + (self.calls_per_second >= _SOME_CALLS) + (self.calls_per_second >= _MANY_CALLS)


@attrs.frozen
class Drawing:
    """A graph in its places."""

    nodes: Sequence[Node]
    lines: Sequence[Line]
    width: int
    height: int
    total: int
    """How many nodes there are, drawn or not."""
    node_width: int = NODE_WIDTH
    node_height: int = NODE_HEIGHT


def drawing(graph: pb.GetGraphResponse, about: str = "") -> Drawing:
    """Return what is drawn: with `about`, only nodes whose names contain it, and their neighbours."""
    nodes = {_key(node.name, missing=node.missing): node for node in graph.nodes}
    between: dict[tuple[str, str], list[pb.Edge]] = {}
    for edge in graph.edges:
        ends = _key(edge.caller), _target(edge)
        if ends[0] in nodes and ends[1] in nodes:
            between.setdefault(ends, []).append(edge)
    shown = _shown(nodes, between, about.lower())
    kept = {ends: edges for ends, edges in between.items() if ends[0] in shown and ends[1] in shown}
    places = _places(tuple(sorted(shown)), tuple(sorted(kept)))
    return Drawing(
        nodes=[Node(nodes[key], *places.nodes[key]) for key in sorted(shown)],
        lines=_lines(kept, places),
        width=places.width,
        height=places.height,
        total=len(nodes),
    )


def _key(name: str, *, missing: bool = False) -> str:
    """Return what names a node here: a service that is missing may have the name of a plugin."""
    return f"{'missing' if missing else 'plugin'} {name}"


def _target(edge: pb.Edge) -> str:
    return _key(edge.provider) if edge.provider else _key(edge.service_type, missing=True)


def _shown(
    nodes: dict[str, pb.GraphNode], between: dict[tuple[str, str], list[pb.Edge]], about: str
) -> set[str]:
    """Return what is drawn: of many, what is wrong and what is beside it, or else the most connected."""
    beside: dict[str, set[str]] = {key: set() for key in nodes}
    for a, b in between:
        beside[a].add(b)
        beside[b].add(a)
    if about:
        found = {key for key, node in nodes.items() if about in node.name.lower()}
        nearby = set().union(*(beside[key] for key in found)) - found
        return set([*sorted(found), *sorted(nearby)][:MAX_NODES])
    wrong = {key for key, node in nodes.items() if node.missing or node.state not in _QUIET}
    near = set().union(*(beside[key] for key in wrong))
    if wrong and len(nodes) > MAX_NODES:
        nodes = {key: nodes[key] for key in wrong | near}
    ranked = sorted(nodes, key=lambda key: (key not in wrong, -len(beside[key]), key))
    return set(ranked[:MAX_NODES])


_QUIET = {pb.PLUGIN_STATE_HEALTHY, pb.PLUGIN_STATE_STARTING, pb.PLUGIN_STATE_GONE}


@lru_cache(maxsize=16)
def _places(nodes: tuple[str, ...], edges: tuple[tuple[str, str], ...]) -> Layout:
    return layout(nodes, edges)


def _lines(kept: dict[tuple[str, str], list[pb.Edge]], places: Layout) -> list[Line]:
    out = [a for a, _ in kept]
    into = [b for _, b in kept]
    lines = []
    for (a, b), edges in sorted(kept.items()):
        points = _loop(places.nodes[a]) if a == b else places.edges[a, b]
        # Lines come together where many begin or end: the label stands at the other end.
        near_target = out.count(a) >= into.count(b)
        (x, y), (x2, y2) = points[-2:] if near_target else points[:2]
        lines.append(
            Line(
                caller=a.partition(" ")[2],
                target=b.partition(" ")[2],
                missing=b.startswith("missing "),
                edges=edges,
                path=_path(points),
                label_x=(x + x2) // 2,
                label_y=(y + y2) // 2,
            )
        )
    return lines


def _loop(corner: tuple[int, int]) -> list[tuple[int, int]]:
    x, y = corner
    return [(x + NODE_WIDTH, y + NODE_HEIGHT // 3), (x + NODE_WIDTH, y + 2 * NODE_HEIGHT // 3)]


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Return curves from layer to layer, and straight lines through a layer."""
    (x, y), *rest = points
    words = [f"M{x} {y}"]
    for place, (x2, y2) in enumerate(rest):
        if place % 2 == 0:
            bend = 40 if x2 == x else (x2 - x) // 2
            words.append(f"C{x + bend} {y} {x2 + bend if x2 == x else x2 - bend} {y2} {x2} {y2}")
        else:
            words.append(f"L{x2} {y2}")
        x, y = x2, y2
    return "".join(words)
