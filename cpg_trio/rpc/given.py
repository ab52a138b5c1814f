"""What people give to `provide`, `client` and the like: checked where it is given, with what to do.

A mistake that is not found here is found by the first call, far from the line that has to change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from connectrpc.method import StreamType

from cpg_trio._lines import one_line
from cpg_trio.rpc.client import ServiceClient
from cpg_trio.rpc.stubs import Rpc

_ASGI = ("scope", "receive", "send")
_STREAMED = frozenset({StreamType.SERVER_STREAM, StreamType.BIDI_STREAM})


def described(given: object) -> str:
    """Return in words what something is that was given in place of something else."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if isinstance(given, ModuleType):
        return f"the module {given.__name__}"
    if inspect.isroutine(given):
        return f"the function {given.__name__}"
    if given is None or isinstance(given, (str, bytes, int, float)):
        return one_line(repr(given))
    return f"an object of the class {type(given).__name__}"


def check_texts(**given: object) -> None:
    """Raise TypeError for what is no text, under its name."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is a text, and not {described(value)}")


def check_service_type(call: str, given: object) -> None:
    """Raise TypeError for what is no text where a call takes the type of a service."""
    if not isinstance(given, str):
        raise TypeError(
            f'{call}() takes the type of a service first, as in "logger", and not {described(given)}'
        )


def check_client_class(given: Any) -> None:
    """Raise TypeError for what is no class of a client."""
    if isinstance(given, ServiceClient):
        name = type(given).__name__
        raise TypeError(f"client() takes a generated class, such as {name}, and not an instance of it")
    if isinstance(given, type) and issubclass(given, ServiceClient):
        return
    if isinstance(given, type) and (name := getattr(given, "service_name", "")):
        raise TypeError(
            f"client() takes the generated client of {name}, and {given.__name__} is the base"
            " class of what provides it"
        )
    raise TypeError(f"client() takes a generated client, such as LoggerClient, and not {described(given)}")


def check_service(given: Any) -> None:
    """Raise TypeError for what is no implementation of a generated service, or does not fit its methods."""
    if isinstance(given, type) and not issubclass(given, ServiceClient):
        name = given.__name__
        raise TypeError(f"{name} is a class: an instance of it is what serves, as in {name}()")
    if isinstance(given, (ServiceClient, type)):
        name = getattr(given, "service_name", "a service")
        raise TypeError(
            f"{described(given)} is a client of {name}, which calls it: what provides it is an"
            " object of a class that derives from the generated service"
        )
    if _is_asgi(given):
        raise TypeError(
            f"{described(given)} is an ASGI application: a plugin provides generated services, and its"
            " `middleware` may put an application around one"
        )
    if not (hasattr(given, "service_name") and hasattr(given, "application")):
        raise TypeError(f"{described(given)} does not derive from a generated service, such as LoggerService")
    if not hasattr(given, "rpcs"):
        raise TypeError(
            f"{described(given)} derives from stubs that another generator has made, or an earlier version of"
            " this one: generate them anew (cpg-trio generate)"
        )
    for rpc in given.rpcs:
        _check_method(given, rpc)


def _is_asgi(given: object) -> bool:
    if not callable(given) or hasattr(given, "service_name"):
        return False
    try:
        names = [*inspect.signature(given).parameters]
    except (TypeError, ValueError):
        return False
    return tuple(names) == _ASGI


def _check_method(service: object, rpc: Rpc) -> None:
    where = f"{type(service).__name__}.{rpc.python_name}"
    method = getattr(service, rpc.python_name, None)
    if not callable(method):
        raise TypeError(f"{where} is no method, and {rpc.name} has to be answered: generate the stubs anew")
    plain: Any = inspect.unwrap(method)
    if not inspect.isroutine(plain):
        return  # an object that is called; what it returns is seen when it is
    _check_arguments(where, method)
    _check_kind(where, rpc, plain)


def _check_arguments(where: str, method: Callable[..., object]) -> None:
    try:
        inspect.signature(method).bind(None, None)
    except TypeError as error:
        name = where.rpartition(".")[2]
        raise TypeError(
            f"{where} is called with a request and a context ({error}):"
            f" define it as {name}(self, request, ctx, /)"
        ) from None
    except ValueError:  # it has no signature that could be read
        return


def _check_kind(where: str, rpc: Rpc, method: Callable[..., object]) -> None:
    if rpc.streams in _STREAMED:
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"{where} has no `yield`, and {rpc.name} answers with a stream: yield its messages"
            )
        return
    if inspect.isasyncgenfunction(method):
        raise TypeError(f"{where} has a `yield`, and {rpc.name} answers with one message: return it")
    if not inspect.iscoroutinefunction(method) and not _says_awaitable(method):
        raise TypeError(f"{where} is no async function: define it with `async def`")


def _says_awaitable(method: Callable[..., object]) -> bool:
    """Whether a plain function says that it returns something that is awaited."""
    returns = str(getattr(method, "__annotations__", {}).get("return", ""))
    return "Awaitable" in returns or "Coroutine" in returns
