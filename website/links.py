"""Links in Markdown, and the anchors of headings, as forges make them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

# Fenced code, and code in a line.
_CODE = re.compile(
    r"^( *)(```+).*?^\1\2`*[ ]*$|(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\3(?!`)", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))|(?<=srcset=\")([^\"]+)|(?<=src=\")([^\"]+)")


def slug(heading: str, separator: str = "-") -> str:
    """Return the anchor of a heading, as GitHub and Forgejo make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", separator)


def links(markdown: str) -> Iterator[str]:
    """Yield where the links and pictures of a page lead, but those in code."""
    for found in _LINK.finditer(_CODE.sub("`", markdown)):
        yield found[0]


def is_external(link: str) -> bool:
    """Return whether a link leads out of the project."""
    return "://" in link or link.startswith("mailto:")


def with_links(markdown: str, change: Callable[[str], str]) -> str:
    """Return a page with each link changed, but those in code."""
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_LINK.sub(lambda found: change(found[0]), markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(lambda found: change(found[0]), markdown[end:])])


def resolved(page: str, link: str) -> tuple[str, str]:
    """Return the file that a link of a page leads to, from the root of the project, and the anchor in it."""
    name, _, anchor = link.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), name)) if name else page, anchor


def relative(page: str, target: str) -> str:
    """Return the link from one page of the site to another."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
