"""What is given in place of what was meant is refused where it is given, with what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from cpg_trio import CallPolicy, Context, Host, Plugin
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.rpc import application
from tests._gen.echo.v1 import echo_pb2 as pb, echo_trio
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient
from tests.rpc.echo import Echo

NOBODY: Any = object()
CLIENT = EchoServiceClient("http://echo", NOBODY)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None: ...


class Asgi:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Former:
    service_name = "echo.v1.EchoService"

    def application(self) -> None: ...


class Plain(EchoService):
    def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:  # type: ignore[override]
        return pb.EchoResponse(text=request.text)


class Yields(EchoService):
    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> Any:
        yield pb.EchoResponse(text=request.text)


class Returns(EchoService):
    async def count(self, request: pb.CountRequest, _ctx: Context, /) -> Any:  # type: ignore[override]
        return [pb.CountResponse(number=request.to)]


class WithoutContext(EchoService):
    async def echo(self, request: pb.EchoRequest) -> pb.EchoResponse:  # type: ignore[override]
        return pb.EchoResponse(text=request.text)


class Hidden(EchoService):
    echo: ClassVar[None] = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Echo, r"Echo is a class: an instance of it is what serves, as in Echo\(\)"),
        (
            CLIENT,
            "an object of the class EchoServiceClient is a client of echo.v1.EchoService, which calls it",
        ),
        (EchoServiceClient, "the class EchoServiceClient is a client of echo.v1.EchoService"),
        (lambda request: request, "the function <lambda> does not derive from a generated service"),
        (asgi, "the function asgi is an ASGI application: .* `middleware`"),
        (Asgi(), "an object of the class Asgi is an ASGI application"),
        (echo_trio, "the module tests._gen.echo.v1.echo_trio does not derive from a generated service"),
        (None, "None does not derive from a generated service, such as LoggerService"),
        (Former(), r"derives from stubs that another generator .*: generate them anew \(cpg-trio generate\)"),
        (Plain(), "Plain.echo is no async function: define it with `async def`"),
        (Yields(), "Yields.echo has a `yield`, and Echo answers with one message: return it"),
        (Returns(), "Returns.count has no `yield`, and Count answers with a stream: yield its messages"),
        (
            WithoutContext(),
            r"called with a request and a context .* define it as echo\(self, request, ctx, /\)",
        ),
        (Hidden(), "Hidden.echo is no method, and Echo has to be answered: generate the stubs anew"),
    ],
)
def test_what_is_no_service_is_not_provided(given: Any, said: str) -> None:
    plugin = Plugin("p", version="1.0.0")
    with pytest.raises(TypeError, match=said):
        plugin.provide("echo", given)
    assert plugin.provides == ()
    with pytest.raises(TypeError, match=said):
        application([given])


class Delegating(EchoService):
    """Answers by what others return, which is as good as being async."""

    def __init__(self) -> None:
        self.http_chat = _Called()  # type: ignore[method-assign]

    def echo(self, request: pb.EchoRequest, ctx: Context, /) -> Coroutine[Any, Any, pb.EchoResponse]:
        return Echo().echo(request, ctx)

    def count(self, request: pb.CountRequest, ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        return Echo().count(request, ctx)


class _Called:
    def __call__(self, *_: object) -> Any: ...


def test_methods_may_pass_on_what_others_return() -> None:
    Plugin("p", version="1.0.0").provide("echo", Delegating())


@pytest.mark.parametrize("client", [lambda p: p.require("t").client, lambda p: p.capability("t").client])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (CLIENT, "a generated class, such as EchoServiceClient, and not an instance of it"),
        (
            EchoService,
            "the generated client of echo.v1.EchoService, and EchoService is the base",
        ),
        (Echo, "Echo is the base class of what provides it"),
        (int, "a generated client, such as LoggerClient, and not the class int"),
        (echo_trio, "and not the module tests._gen.echo.v1.echo_trio"),
        ("echo", "and not 'echo'"),
    ],
)
def test_what_is_no_client_makes_no_calls(client: Callable[[Plugin], Any], given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        client(Plugin("p", version="1.0.0"))(given)


NOT_TEXT: Any = 1.0
LIKE_A_POLICY: Any = {"timeout_s": 1.0}
AUDIT: Any = SimpleNamespace(on_start=None, on_end=None)


@pytest.mark.parametrize(
    ("mistake", "error", "said"),
    [
        (lambda p: p.provide(Echo(), "echo"), TypeError, "provide.. takes the type of a service first"),
        (lambda p: p.require(EchoServiceClient), TypeError, "first, .* and not the class EchoServiceClient"),
        (lambda p: p.capability(None), TypeError, "capability.. takes the type of a service first"),
        (
            lambda _: Host().require(NOT_TEXT),
            TypeError,
            "require.. takes the type of a service first",
        ),
        (lambda _: Plugin("p", version=NOT_TEXT), TypeError, "version is a text, and not 1.0"),
        (lambda p: p.provide("echo", Echo(), version=NOT_TEXT), TypeError, "version is a text, and not 1.0"),
        (lambda p: p.require("echo", version=NOT_TEXT), TypeError, "version is a text, and not 1.0"),
        (
            lambda p: p.require("echo", policy=LIKE_A_POLICY),
            TypeError,
            "policy is a CallPolicy, and not an obj",
        ),
        (
            lambda p: p.provide("echo", Echo(), interceptors=AUDIT),
            TypeError,
            r"as a list, also a single one: \[",
        ),
        (lambda _: Plugin("p", version="1.0.0", interceptors=AUDIT), TypeError, "as a list"),
        (lambda p: p.require("echo", interceptors=[int]), TypeError, r"int is a class: .* as in int\(\)"),
        (
            lambda p: p.require("echo", interceptors=[5]),
            TypeError,
            "5 is no interceptor: it has no intercept_u",
        ),
        (
            lambda p: [p.provide("t", Echo()) for _ in "ab"],
            ValueError,
            "p provides t already: .* another type",
        ),
        (
            lambda p: [p.require("t") for _ in "ab"],
            ValueError,
            r"requires t already: keep what require\(\) has",
        ),
        (lambda p: p.provide("no good", Echo()), ValueError, "service type"),
        (lambda p: p.require("t", version="1.x"), ValueError, "1.x"),
    ],
)
def test_a_mistake_in_a_declaration_says_what_to_write(
    mistake: Callable[[Any], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        mistake(Plugin("p", version="1.0.0"))


def test_a_mistake_leaves_nothing_half_done() -> None:
    plugin = Plugin("p", version="1.0.0")
    mistakes: list[Mapping[str, Any]] = [{"policy": LIKE_A_POLICY}, {"interceptors": AUDIT}, {"version": "?"}]
    for mistake in mistakes:
        with pytest.raises((TypeError, ValueError)):
            plugin.require("t", **mistake)
    assert plugin.requires == ()
    plugin.require("t", policy=CallPolicy())
