"""The context of a call, where a server reads it and tells of it."""

from __future__ import annotations

import attrs
import httpx
import pytest

from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.call_context import NO_CALL, CallContext, current
from cpg_trio.rpc import AsgiTransport
from tests.http.drivers import PLAIN, Driver

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=PLAIN, ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


@attrs.define
class Looking:
    """An application that answers with the request id, and keeps the contexts of its calls."""

    headers: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    seen: list[CallContext] = attrs.field(factory=list)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.seen.append(current())
        await send_response(send, 200, current().request_id.encode(), self.headers)


async def test_an_application_has_the_context_of_its_call(driver: Driver) -> None:
    app = Looking()
    async with driver.serving(app) as up, up.connect() as peer:
        response = await peer.call("/", ("traceparent", PARENT), ("x-request-id", "r-1"), ("baggage", "a=1"))
    (context,) = app.seen
    assert (context.request_id, context.traceparent, context.baggage) == ("r-1", PARENT, "a=1")
    assert response.field(b"x-request-id") == b"r-1"


async def test_each_call_without_a_request_id_gets_one_which_its_client_is_told(driver: Driver) -> None:
    app = Looking()
    async with driver.serving(app) as up, up.connect() as peer:
        responses = [await peer.call("/") for _ in range(2)]
    told = [response.field(b"x-request-id") for response in responses]
    assert told == [response.body for response in responses]
    assert len(set(told)) == 2
    assert all(context.trace_id == "" for context in app.seen)


async def test_the_next_call_of_a_connection_has_nothing_of_the_one_before(driver: Driver) -> None:
    app = Looking()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call("/", ("traceparent", PARENT), ("x-request-id", "r-1"))
        await peer.call("/")
    assert app.seen[1].traceparent == ""
    assert app.seen[1].request_id != "r-1"


async def test_an_application_may_tell_another_request_id(driver: Driver) -> None:
    app = Looking([(b"x-request-id", b"own")])
    async with driver.serving(app) as up, up.connect() as peer:
        response = await peer.call("/", ("x-request-id", "r-1"))
    assert [value for name, value in response.fields if name == b"x-request-id"] == [b"own"]


async def test_the_answer_to_a_call_that_failed_has_its_request_id(driver: Driver) -> None:
    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("an application's own")

    async with driver.serving(fails) as up, up.connect() as peer:
        response = await peer.call("/", ("x-request-id", "r-1"))
    assert (response.status, response.field(b"x-request-id")) == (500, b"r-1")


async def test_a_call_within_the_process_has_a_context_as_well() -> None:
    app = Looking()
    async with httpx.AsyncClient(transport=AsgiTransport(app)) as http:
        response = await http.get("http://x/", headers={"traceparent": PARENT})
    assert app.seen[0].traceparent == PARENT
    assert response.headers["x-request-id"] == response.text
    assert current() is NO_CALL
