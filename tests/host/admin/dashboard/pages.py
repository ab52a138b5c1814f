"""The dashboard of a host in memory, asked over HTTP, and its pages as elements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from urllib.parse import quote

import attrs
import httpx

from cpg_trio.host import HostConfig
from cpg_trio.host.admin.actor import acting_as
from cpg_trio.host.admin.dashboard import Dashboard
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import AsgiTransport
from tests.host.admin.operating import Operator, operating

_VOID = {"meta", "link", "input", "br", "hr", "img"}


@attrs.define
class Element:
    """An element of a page, with its attributes, its children, and the text in it."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = attrs.field(factory=list)

    def all(self, tag: str = "", **attributes: str | None) -> Iterator[Element]:
        """Yield the elements within that have a tag and attributes; `_` stands for `-` in their names."""
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
                if tag in {"", child.tag} and wanted.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag: str = "", **attributes: str | None) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(self._text().split())

    def _text(self) -> str:
        return "".join(child if isinstance(child, str) else child._text() for child in self.children)


class _Parser(HTMLParser):
    """Builds elements. What is not closed in its order is an error, as it is not ours to forgive."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"{tag} closes {self.open[-1].tag} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(html: str) -> Element:
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, f"not closed: {parser.open[-1].tag}"
    return parser.open[0]


@attrs.frozen
class Browser:
    """A browser without JavaScript."""

    operator: Operator
    http: httpx.AsyncClient

    async def get(self, path: str, status: int = 200) -> Element:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        return parsed(answer.text)

    async def post(self, path: str, status: int = 200, **form: str) -> Element:
        answer = await self.http.post(path, data=form)
        assert answer.status_code == status, answer.text
        return parsed(answer.text)


PATHS = ("/", "/plugins", "/services", "/calls", "/capabilities", "/configuration", "/events")


async def all_pages(browser: Browser) -> list[tuple[str, Element]]:
    """Return each page of a host: the tables, and those of its first plugins."""
    plugins = browser.operator.host.admin.view.plugins(pb.ListPluginsRequest(include_gone=True)).plugins
    actions = ("", "/drain", "/undrain", "/shutdown", "/revoke")
    ids = [quote(plugin.runtime_id, safe="") for plugin in plugins[:3]]
    paths = [*PATHS, *(f"/plugins/{id_}{action}" for id_ in ids for action in actions)]
    return [(path, await browser.get(path)) for path in paths]


@asynccontextmanager
async def browsing(config: HostConfig | None = None) -> AsyncIterator[Browser]:
    async with operating(config) as operator:
        admin = operator.host.admin
        app = Dashboard(admin.view, admin.events, admin.actions, admin.managed_actions)
        with acting_as("uid 1000"):
            transport = AsgiTransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://admin") as http:
                yield Browser(operator, http)
