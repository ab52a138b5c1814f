"""The public names, and the pages of the reference that have them.

A page has a table of names, which forges show. On the site, what the docstrings say stands in its place.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from types import FunctionType

PAGES: dict[str, tuple[str, ...]] = {
    "cpg_trio": ("cpg_trio",),
    "plugin": ("cpg_trio.plugin",),
    "host": ("cpg_trio.host",),
    "launch": ("cpg_trio.launch",),
    "rpc": ("cpg_trio.rpc",),
    "calls": ("cpg_trio.calls",),
    "http": ("cpg_trio.http", "cpg_trio.http.client.httpx_transport"),
    "store": ("cpg_trio.store",),
    "testing": ("cpg_trio.testing",),
    "process": ("cpg_trio.process", "cpg_trio.logs", "cpg_trio.call_context"),
    "statistics": ("cpg_trio.statistics", "cpg_trio.capabilities"),
}
"""The modules of each page of `docs/reference/api/`. A name is explained at the first module that has it."""

_TABLE = re.compile(r"<!-- api: ([\w.]+) -->\n(.*?)<!-- /api -->", re.DOTALL)


def modules() -> list[str]:
    """Return the public modules, in the order of the pages."""
    return [module for page in PAGES.values() for module in page]


def names_of(module: str) -> list[str]:
    """Return the public names of a module, in the order of the alphabet."""
    return sorted(set(importlib.import_module(module).__all__) - {"__version__"})


@cache
def homes() -> dict[str, str]:
    """Return where each public name, as `module.name`, is explained: at the first module that has it."""
    first: dict[int, str] = {}
    found = {}
    for module in modules():
        for name in names_of(module):
            value = getattr(importlib.import_module(module), name)
            path = f"{module}.{name}"
            # Small values, such as numbers, may be one object by accident.
            found[path] = first.setdefault(id(value), path) if callable(value) else path
    return found


def by_name() -> Mapping[str, str]:
    """Return where names are explained, by the name alone where it is that of one thing only."""
    found: dict[str, set[str]] = {}
    for path, home in homes().items():
        found.setdefault(path.rpartition(".")[2], set()).add(home)
    return {name: next(iter(places)) for name, places in found.items() if len(places) == 1}


def with_links(markdown: str) -> str:
    """Return a page with the public names that its tables begin with as links to the reference."""
    places = by_name()

    def link(found: re.Match[str]) -> str:
        home = places.get(found[1]) or homes().get(f"cpg_trio.{found[1]}")
        return f"| [`{found[1]}`][{home}] |" if home else found[0]

    return re.sub(r"^\| `([\w.]+)` \|", link, markdown, flags=re.MULTILINE)


def page_of(path: str) -> str:
    """Return the page, without `.md`, that explains a name."""
    module = path.rpartition(".")[0]
    return next(page for page, listed in PAGES.items() if module in listed)


def table(module: str) -> str:
    """Return the names of a module as a table in Markdown."""
    rows = [f"| {_row(module, name)} |" for name in names_of(module)]
    return "\n".join(["| name | what it is |", "|---|---|", *rows, ""])


def _row(module: str, name: str) -> str:
    home = homes()[f"{module}.{name}"]
    if home != f"{module}.{name}":
        return f"`{name}` | [`{home}`]({page_of(home)}.md)"
    text = _generated(getattr(importlib.import_module(module), name))
    first = text or docstring(module, name).split("\n\n")[0]
    return f"`{name}` | {' '.join(first.split()).replace('|', '&#124;')}"


def docstring(module: str, name: str) -> str:
    """Return the docstring of a name, also of a constant or an alias of a type; empty if there is none."""
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, type | FunctionType) or hasattr(value, "__wrapped__"):
        return inspect.getdoc(value) or ""
    return _docstring_of_assignment(module, name)


def _docstring_of_assignment(module: str, name: str) -> str:
    """Return the text below the assignment of a name, wherever it is imported from."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for statement, following in pairwise([*tree.body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign | ast.Assign) and name in _targets(statement):
            return following.value.value if _is_text(following) else ""  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), module)
            return _docstring_of_assignment(origin, name)
    return ""


def _targets(statement: ast.AnnAssign | ast.Assign) -> set[str]:
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
    return {ast.unparse(target) for target in targets}


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def with_tables(markdown: str) -> str:
    """Return a page of the reference with its tables as the code has them."""
    return _TABLE.sub(lambda found: f"<!-- api: {found[1]} -->\n{table(found[1])}<!-- /api -->", markdown)


def with_reference(markdown: str) -> str:
    """Return a page of the reference with directives of mkdocstrings in the place of its tables."""
    return _TABLE.sub(lambda found: _reference(found[1]), markdown)


def _reference(module: str) -> str:
    own: list[str] = []
    elsewhere: list[str] = []
    for name in names_of(module):
        home = homes()[f"{module}.{name}"]
        (own if home == f"{module}.{name}" else elsewhere).append(home)
    also = [f"Also here: {', '.join(f'[`{home}`][{home}]' for home in elsewhere)}."] if elsewhere else []
    return "\n\n".join([*also, *(_directive(path) for path in own)])


def _directive(path: str) -> str:
    module, _, name = path.rpartition(".")
    if text := _generated(getattr(importlib.import_module(module), name)):
        return f"### `{name}` {{ #{path} }}\n\n{text}"
    return f"::: {path}"


def _generated(value: object) -> str:
    """Return a sentence for what is generated from the protos; empty for another name."""
    descriptor = getattr(value, "DESCRIPTOR", None)
    if descriptor is not None:
        return f"The message [`{descriptor.full_name}`](../wire-messages.md#{descriptor.name.lower()})."
    if str(getattr(value, "__module__", "")).startswith("cpg_trio.protos."):
        return "Generated for [its service](../wire-messages.md#logger)."
    return ""
