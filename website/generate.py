"""Write what the code says into the pages of the documentation: `python -m website.generate`.

It stands between `<!-- generated: NAME -->` and `<!-- /generated -->`, or is a table of `website.api`, or a
picture of `website.diagrams`.
With `--check` nothing is written, and the status is 1 if something would change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from website import api, commands, diagrams, wire
from website.source import DOCS, ROOT

_PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)

PARTS: dict[str, Callable[[], str]] = {
    "options": commands.options,
    "settings": commands.settings,
    "plugins": lambda: wire.described(
        "connectplugin/v1/connectplugin.proto",
        "connectplugin/health/v1/health.proto",
        "capability/logger/v1/logger.proto",
    ),
    "hosts": lambda: wire.described("cpgtrio/hosts/v1/hosts.proto"),
    "admin": lambda: wire.described("cpgtrio/admin/v1/admin.proto"),
}
"""What is generated, by name."""


def fresh(text: str) -> str:
    """Return a page with its generated parts as the code has them."""

    def part(found: re.Match[str]) -> str:
        return f"{found[1]}\n{PARTS[found[2]]().strip()}\n\n{found[4]}"

    return api.with_tables(_PART.sub(part, text))


def stale() -> Iterator[tuple[Path, str]]:
    """Yield the pages that are not as the code has them, and what they would be."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        if (new := fresh(text)) != text:
            yield page, new


def stale_pictures() -> Iterator[tuple[Path, str]]:
    """Yield the diagrams that are not as the code has them, and what they would be."""
    for name, drawn in diagrams.pictures().items():
        path = ROOT / name
        if not path.is_file() or path.read_text() != drawn:
            yield path, drawn


def main(words: list[str]) -> int:
    """Run the command line."""
    found = [*stale(), *stale_pictures()]
    for page, text in found:
        if "--check" in words:
            print(f"{page.relative_to(ROOT)} is not as the code is: python -m website.generate")
        else:
            page.write_text(text)
            print(f"wrote  {page.relative_to(ROOT)}")
    return int("--check" in words and bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
