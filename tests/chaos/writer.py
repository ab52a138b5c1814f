"""A client that shortens URLs all the time, whatever happens, and keeps what was acknowledged."""

from __future__ import annotations

from itertools import count

import attrs
import httpx
import trio

from tests.shortener_processes import System

_PAUSE_S = 0.05  # a load, not a flood: what is measured is the fault
_AT_ONCE = 8
_TIMEOUT_S = 15.0


@attrs.frozen
class Call:
    """One call to Shorten."""

    began: float
    seconds: float
    status: int
    """The HTTP status; 0 for a call without an answer."""


@attrs.define
class Writer:
    """Calls whichever api runs now."""

    system: System
    http: httpx.AsyncClient
    acknowledged: dict[str, str] = attrs.field(factory=dict)
    """The URL behind each code that was returned."""
    calls: list[Call] = attrs.field(factory=list)
    _numbers: count[int] = attrs.field(factory=count)

    async def run(self) -> None:
        """Shorten until cancelled."""
        while True:
            await self.shorten()
            await trio.sleep(_PAUSE_S)

    async def shorten(self) -> int:
        """Shorten one more URL; return the status, 0 without an answer."""
        url = f"https://example.com/{next(self._numbers)}"
        began = trio.current_time()
        status, text = await self._call("POST", "Shorten", url=url)
        self.calls.append(Call(began, trio.current_time() - began, status))
        assert not httpx.codes.is_client_error(status), text
        if status == httpx.codes.OK:
            self.acknowledged[text["short_code"]] = url
        return status

    async def lost(self) -> dict[str, str]:
        """Resolve every code that was acknowledged; return those that do not resolve, and why."""
        lost: dict[str, str] = {}
        codes = iter(list(self.acknowledged.items()))

        async def resolve_some() -> None:
            for code, url in codes:
                status, answer = await self._call("GET", "Resolve", code=code)
                if answer != {"url": url}:
                    lost[code] = f"{status} {answer}"

        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(resolve_some)
        return lost

    async def _call(self, method: str, name: str, **parameters: str) -> tuple[int, dict[str, str]]:
        url = f"{await self.system.parts['api'].url()}/api.v1.API/{name}"
        try:
            answer = await self.http.request(method, url, params=parameters, timeout=_TIMEOUT_S)
        except httpx.TransportError as error:
            return 0, {"error": repr(error)}
        if answer.status_code == httpx.codes.OK:
            return answer.status_code, answer.json()
        return answer.status_code, {"error": answer.text}
