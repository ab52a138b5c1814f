"""Where a plugin describes its services, by gRPC server reflection.

    /greeter.v1.Greeter/grpc.reflection.v1.ServerReflection/...   that service, to those who may call it
    /grpc.reflection.v1.ServerReflection/...                      the services that anybody may call

The host's router sends `/services/greeter/{id}/grpc.reflection.v1.ServerReflection/...` to the first path. So
a caller learns of the services that the host lets it call, and of no other. The second one is where gRPC
tools ask, which call the plugin itself and prove nothing.

Imported only where it is switched on: see `rpc.reflection`.
"""

from __future__ import annotations

from collections.abc import Iterable

from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.plugin._declaration import Provided
from cpg_trio.rpc import application
from cpg_trio.rpc.reflection import NAMES, reflection_of

PATHS = tuple(f"/{name}/" for name in NAMES)

_MOST_QUESTION_BYTES = 64 * 1024


def describing(services: Iterable[Provided]) -> App:
    """Return an application that describes services."""
    names = [provided.path.strip("/") for provided in services]
    return application(reflection_of(names), max_message_bytes=_MOST_QUESTION_BYTES)


def described(provided: Provided) -> App:
    """Return the application of a service that also describes it, below its path."""
    reflection, prefix = describing([provided]), provided.path.rstrip("/")
    paths = tuple(prefix + path for path in PATHS)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(paths):
            await provided.application(scope, receive, send)
            return
        path, raw_path = scope["path"].removeprefix(prefix), scope["raw_path"].removeprefix(prefix.encode())
        await reflection({**scope, "path": path, "raw_path": raw_path}, receive, send)

    return dispatch
