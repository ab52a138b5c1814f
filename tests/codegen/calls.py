"""A program: it imports all stubs in a folder, calls each method of each service, and tells of it in JSON."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import trio

from cpg_trio import rpc


def stubs(folder: Path, package: str) -> list[Any]:
    """Return the modules of stubs in a folder."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*_trio.py"))
    names = [".".join([*filter(None, [package]), *path.with_suffix("").parts]) for path in paths]
    return [importlib.import_module(name) for name in names]


def classes(module: Any, base: type) -> dict[str, type[Any]]:
    """Return the classes of a module that are derived from `base`, by the names of their services."""
    found: list[Any] = [each for _, each in inspect.getmembers(module, inspect.isclass)]
    found = [each for each in found if issubclass(each, base) and each.__module__ == module.__name__]
    return {each.service_name: each for each in found}


def implemented(base: type[Any]) -> Any:
    """Return an implementation of a service: each method answers empty messages, two in a stream."""

    def method(each: rpc.Rpc) -> Any:
        async def read(requests: Any) -> None:
            if hasattr(requests, "__aiter__"):
                async for request in requests:
                    assert isinstance(request, each.request)
            else:
                assert isinstance(requests, each.request)

        async def one(_self: Any, requests: Any, _ctx: rpc.Context, /) -> Any:
            await read(requests)
            return each.response()

        async def many(_self: Any, requests: Any, _ctx: rpc.Context, /) -> AsyncIterator[Any]:
            await read(requests)
            for _ in range(2):
                yield each.response()

        return many if each.streams.name in {"SERVER_STREAM", "BIDI_STREAM"} else one

    methods = {each.python_name: method(each) for each in base.rpcs}
    return type("Implementation", (base,), methods)()


def filled(message: type[Any]) -> Any:
    """Return a message with a text in each field that is required."""
    return message(**{field.name: "a" for field in message.DESCRIPTOR.fields if field.is_required})


async def call(client: Any, each: rpc.Rpc) -> None:
    """Call a method."""

    async def requests() -> AsyncIterator[Any]:
        for _ in range(2):
            yield filled(each.request)

    method = getattr(client, each.python_name)
    given = requests() if each.streams.name in {"CLIENT_STREAM", "BIDI_STREAM"} else filled(each.request)
    if each.streams.name in {"SERVER_STREAM", "BIDI_STREAM"}:
        async with method(given) as responses:
            answers = [response async for response in responses]
        assert answers == [each.response(), each.response()]
    else:
        assert await method(given) == each.response()


def described(types: Path, module: Any) -> Iterator[tuple[str, bool]]:
    """Yield the names that the types of a module have, and whether the module has them."""

    def names(body: list[ast.stmt], around: Any, path: str) -> Iterator[tuple[str, bool]]:
        for each in body:
            target = each.target if isinstance(each, ast.AnnAssign) else None
            name = target.id if isinstance(target, ast.Name) else getattr(each, "name", None)
            if name is None:
                continue
            full = f"{path}.{name}".lstrip(".")
            there = hasattr(around() if inspect.isclass(around) else around, name)  # which fields are of
            yield full, there
            if isinstance(each, ast.ClassDef) and there:
                yield from names(each.body, getattr(around, name), full)

    yield from names(ast.parse(types.read_text()).body, module, module.DESCRIPTOR.package)


def fields(messages: Iterable[Any]) -> Iterator[str]:
    """Yield the full names of all fields of messages."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield from (field.full_name for field in message.fields)
            yield from fields(message.nested_types)


def compare_types(folder: Path, package: str) -> dict[str, Any]:
    """Return how many names the types of all messages have, and what is only there, or only in the code."""
    told: dict[str, bool] = {}
    every: set[str] = set()
    for path in folder.rglob("*_pb2.pyi"):
        parts = path.relative_to(folder).with_suffix("").parts
        module = importlib.import_module(".".join([*filter(None, [package]), *parts]))
        told |= dict(described(path, module))
        every |= set(fields(module.DESCRIPTOR.message_types_by_name.values()))
    return {
        "described": len(told),
        "not_there": sorted(name for name, there in told.items() if not there),
        "not_described": sorted(every - told.keys()),
    }


async def main() -> None:
    told: dict[str, Any] = {
        "answered": [],
        "python_names": {},
        "bases": {},
        "documented": {},
        "idempotency": {},
    }
    for module in stubs(Path(sys.argv[1]), sys.argv[2]):
        clients = classes(module, rpc.ServiceClient)
        for name, base in classes(module, rpc.Service).items():
            app = rpc.application([implemented(base)])
            told["bases"][name] = base.__name__
            told["documented"][name] = base.__doc__
            told["python_names"][name] = {each.name: each.python_name for each in base.rpcs}
            async with httpx.AsyncClient(transport=rpc.AsgiTransport(app)) as http:
                for each in base.rpcs:
                    await call(clients[name]("http://plugin", http), each)
                    told["answered"].append(f"{name}/{each.name}")
                    told["documented"][f"{name}/{each.name}"] = getattr(base, each.python_name).__doc__
                    if each.idempotency is not rpc.IdempotencyLevel.UNKNOWN:
                        told["idempotency"][f"{name}/{each.name}"] = each.idempotency.name
    told["answered"].sort()
    told |= compare_types(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    trio.run(main)
