"""Which files of the project are pages of the site, and where.

Pages of `docs/` are where they are. A few others are pages as well. A file that a page links to, such as a
module or a proto, is shown in a page of its own, so that no link of the site leads out of it: there is no
other place that is sure to have the same version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from website.links import is_external, links, relative, resolved, with_links

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

OTHERS = {
    "CHANGELOG.md": "project/CHANGELOG.md",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "SECURITY.md": "project/SECURITY.md",
    "chart": "reference/chart.md",
    "chart/README.md": "reference/chart.md",
    "README.md": "README.md",
}
"""Pages outside `docs/`, and where the site has them. The README of the project is the home page."""

PICTURES = {".png", ".svg"}
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml"}
_LANGUAGES |= {".toml": "toml", ".json": "json", ".proto": "proto"}


def pages() -> dict[str, str]:
    """Return the pages: their files from the root of the project, and where the site has them."""
    own = {f"docs/{path.relative_to(DOCS)}": str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    others = {name: place for name, place in OTHERS.items() if (ROOT / name).is_file()}
    return own | others


def place_of(file: str) -> str:
    """Return where the site has a file of the project, given from its root."""
    if file in OTHERS:
        return OTHERS[file]
    path = Path(file)
    if path.parts[0] == "docs" and path.suffix in {".md"} | PICTURES:
        return str(path.relative_to("docs"))
    return f"source/{file}.md"


def shown_files() -> Iterator[str]:
    """Yield the files that pages link to, and that are no pages or pictures: each once."""
    seen = set()
    for page in pages():
        for link in links((ROOT / page).read_text()):
            file = resolved(page, link)[0]
            if is_external(link) or file in seen or not place_of(file).startswith("source/"):
                continue
            seen.add(file)
            yield file


def source_page(file: str) -> str:
    """Return the page that shows a file."""
    path = ROOT / file
    text = path.read_text() if path.is_file() else "\n".join(sorted(each.name for each in path.iterdir()))
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    language = _LANGUAGES.get(path.suffix, "text")
    head = f"---\ntitle: {path.name}\nsearch: {{exclude: true}}\nhide: [navigation, toc]\n---\n"
    return f"{head}# {path.name}\n\n`{file}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def for_site(page: str, markdown: str) -> str:
    """Return a page as the site has it: its links lead to where the site has what they name."""
    place = pages()[page]

    def change(link: str) -> str:
        if is_external(link) or link.startswith("#"):
            return link
        file, anchor = resolved(page, link)
        target = relative(place, place_of(file))
        return f"{target}#{anchor}" if anchor else target

    return with_links(markdown, change)
