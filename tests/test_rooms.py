"""The structure: each room imports only from rooms below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cpg_trio"
# From the lowest to the highest. What is in no other room is a foundation.
ROOMS = (
    "foundations",
    "http",
    "process",
    "rpc",
    "codegen",
    "metrics",
    "tracing",
    "calls",
    "store",
    "host.access",
    "host.directory",
    "host.cluster",
    "host.routing",
    "host.services",
    "host.capabilities",
    "host.supervision",
    "host.admin",
    "host",
    "plugin",
    "launch",
    "testing",
    "demo",
    "scaffold",
    "commands",
)
ELSEWHERE = {
    "protos": "rpc",
    "_handshake": "rpc",
    "_health_states": "rpc",
    "capabilities": "rpc",
    "probes": "process",
    "_side_port": "process",
    "_garbage": "process",
    "__main__": "commands",
    "pytest_plugin": "testing",
    "check": "commands",
    "cli": "commands",
}


def room_of(module: str) -> str:
    """Return the room of a module, whose name is without that of the package."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in ROOMS:
            return name
        if name in ELSEWHERE:
            return ELSEWHERE[name]
    return "foundations"


def statements_of(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all statements that may run, at any depth: not those for checkers of types."""
    left: list[ast.AST] = [tree]
    while left:
        match node := left.pop():
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                left += node.orelse
            case ast.expr():
                pass  # there is no statement in it
            case _:
                yield node
                left += ast.iter_child_nodes(node)


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports when it runs, without the name of the package."""
    for node in statements_of(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("cpg_trio.") for a in node.names if a.name.startswith("cpg_trio.")
            )
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            package, _, module = node.module.partition(".")
            if package == "cpg_trio":
                yield from (module,) if module else (alias.name for alias in node.names)


def modules() -> Iterator[tuple[str, str, Path]]:
    """Yield the room, the name and the file of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "protos" not in path.parts:
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
            yield room_of(name), name, path


def test_a_module_imports_only_from_its_room_and_those_below() -> None:
    for room, name, path in modules():
        for imported in imports_of(path):
            other = room_of(imported)
            assert ROOMS.index(other) <= ROOMS.index(room), f"{name} ({room}) imports {imported} ({other})"
            if room == "plugin":  # the two sides never import each other
                assert other.partition(".")[0] != "host", f"{name} imports {imported}"


def test_the_documentation_has_the_rooms_in_their_order() -> None:
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    table = page.partition("## Rooms")[2].partition("\n\nOutside")[0]
    rooms = [row.split("|")[1].strip(" `").replace("/", ".") for row in table.splitlines() if row[:2] == "| "]
    assert tuple(rooms[1:]) == ROOMS
