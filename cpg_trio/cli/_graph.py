"""The command `graph`: who requires and who calls whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cpg_trio._human import rate
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import Column, JsonFlag, Output, call_cells, show_json, took
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

EDGES = (
    Column("CALLER"),
    Column("PROVIDER"),
    Column("SERVICE"),
    Column("CALLS/S", right=True),
    Column("P50", right=True, optional=True),
    Column("P95", right=True),
    Column("FAILED", right=True),
    Column("WHY", prose=True),
)


def graph(*, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Show who requires and who calls whom."""
    answer = call_admin(options, lambda host: host.get_graph(pb.GetGraphRequest()))
    show_json(answer) if json else show_graph(answer, Output())
    return 0


def show_graph(answer: pb.GetGraphResponse, out: Output) -> None:
    """Write a tree for people, or a table of the edges."""
    if not out.is_terminal:
        out.table(EDGES, edge_rows(answer.edges, out))
        return
    for tree in _Trees(answer, out).roots():
        out.console.print(tree)


def edge_rows(edges: Iterable[pb.Edge], out: Output) -> list[list[str | Text]]:
    """Return the cells of a table of edges."""
    missing = out.sign("✗", "missing")
    return [
        [
            edge.caller,
            edge.provider or missing,
            edge.service_type,
            *_without_unit(call_cells(edge.calls)),
            edge.reason,
        ]
        for edge in edges
    ]


def _without_unit(cells: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
    return (cells[0].removesuffix("/s"), *cells[1:])


class _Trees:
    """A graph as trees: from those that nobody calls to those that they call. Each node is told once."""

    def __init__(self, answer: pb.GetGraphResponse, out: Output) -> None:
        self._nodes = {node.name: node for node in answer.nodes if not node.missing}
        self._missing = {node.name: node for node in answer.nodes if node.missing}
        self._edges: dict[str, list[pb.Edge]] = {}
        for edge in answer.edges:
            self._edges.setdefault(edge.caller, []).append(edge)
        self._called = {edge.provider for edge in answer.edges if edge.provider != edge.caller}
        self._told: set[str] = set()
        self._out = out

    def roots(self) -> Iterator[Tree]:
        """Yield a tree for each plugin that nobody calls, and for those that only call each other."""
        from rich.tree import Tree  # noqa: PLC0415 - JSON does not need it

        first = [name for name in self._nodes if name not in self._called]
        for name in [*first, *self._nodes]:
            if name in self._told:
                continue
            tree = Tree(self._name(name), guide_style="bright_black")
            self._grow(tree, name)
            yield tree

    def _grow(self, tree: Tree, name: str) -> None:
        self._told.add(name)
        for edge in self._edges.get(name, ()):
            arrow = self._out.sign("──▶", "-->")
            figures = rate(edge.calls.calls_per_second)
            if edge.calls.calls:
                figures += f" p95 {took(edge.calls, 'p95')}"
            told = edge.provider in self._told
            branch = tree.add(
                self._out.joined([f"{figures} {arrow}"], [self._end(edge, told=told)], between=" ")
            )
            if edge.provider in self._nodes and not told:
                self._grow(branch, edge.provider)

    def _end(self, edge: pb.Edge, *, told: bool) -> str | Text:
        if not edge.provider:
            return f"{self._out.sign('✗', 'missing:')} {edge.service_type}: {edge.reason}"
        return self._name(edge.provider) + (" (see above)" if told else "")

    def _name(self, name: str) -> Text:
        node = self._nodes.get(name, pb.GraphNode(name=name))
        why = f": {node.reason}" if node.reason else ""
        return self._out.state(node.state, f"{name}{why}")
