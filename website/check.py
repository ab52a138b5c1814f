"""What a built site must be: `python -m website.check build/site [--external]`.

Each link and picture leads to a page and an anchor that is there, and nothing is fetched from elsewhere.
MkDocs checks the links that are Markdown; this reads what browsers get. With `--external` links to other
sites are followed as well, which needs a network.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from website.versions import LATEST

_FETCHED = {("script", "src"), ("img", "src"), ("source", "srcset"), ("iframe", "src")}
_TIMEOUT_S = 20.0


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.fetched += [given[name] for of, name in _FETCHED if of == tag and name in given]
        if tag == "link" and given.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.fetched.append(given["href"])


def problems(site: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere, and for what is fetched from elsewhere."""
    site = site.resolve()
    latest = site.parent / LATEST  # beside it in a folder of versions, which it may not be in yet
    pages = {path.resolve(): _Page(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        where = path.relative_to(site)
        if where.name == "404.html":  # its links are from the root of wherever the site is
            continue
        for link in page.fetched:
            if urlsplit(link).netloc:
                yield f"{where} fetches {link}"
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if target.is_relative_to(latest):
                continue
            if not target.exists():
                yield f"{where} links to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where} links to {link}, which has no such anchor"


def external(site: Path) -> Iterator[str]:
    """Yield a sentence for each link to another site that does not answer."""
    links = {link for path in site.rglob("*.html") for link in _Page(path.read_text()).links}
    for link in sorted(link.partition("#")[0] for link in links if link.startswith("https://")):
        request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})  # noqa: S310 - https
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()  # noqa: S310
        except (urllib.error.URLError, TimeoutError) as error:
            yield f"{link}: {error}"


def main(words: list[str]) -> int:
    """Run the command line."""
    site = Path(words[0])
    found = [*problems(site), *(external(site) if "--external" in words else ())]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
