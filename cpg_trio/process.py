"""The edge of the process: environment, signals, exit status. Installs signal handlers; writes to stderr."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from cpg_trio import logs
from cpg_trio._garbage import collecting_garbage
from cpg_trio._reload import reason
from cpg_trio.http import Http1Engine, Origin, ServeConfig
from cpg_trio.http.certificates import tls_from_environment
from cpg_trio.http.server.capacity import raise_descriptor_limit
from cpg_trio.http.server.errors import StartError, logger
from cpg_trio.logs import LogConfig, LogFormat

__all__ = [
    "addresses_from_environment",
    "bind_from_environment",
    "config_from_environment",
    "flag_from_environment",
    "list_from_environment",
    "log_from_environment",
    "probe_bind_from_environment",
    "run",
    "secret_from_environment",
    "stop_on_signals",
]

_MOST_DIGITS = 6  # of how many connections a server may have
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@attrs.define
class _Signals:
    stop: trio.Event = attrs.field(factory=trio.Event)
    forced: signal.Signals | None = None


@asynccontextmanager
async def stop_on_signals() -> AsyncIterator[trio.Event]:
    """Yield an event that SIGTERM or SIGINT sets; a second signal cancels the body at once.

    After the second signal the block ends without an exception. An exception of the body passes as it is.
    Only in the main thread, as for every signal handler in Python.
    """
    async with _watched_signals() as signals:
        yield signals.stop


def run(main: Callable[[trio.Event], Awaitable[None]], *, log: LogConfig | None = None) -> int:
    """Run `main` with an event that is set when it is to stop; return the exit status of the process.

    The log goes to stderr as `log` says, or else `LOG_FORMAT` and `LOG_LEVEL`, unless the program has
    configured `logging`: see `logs.configure_if_needed`. The soft limit of open files, of which each
    connection is one, is raised to the hard one.

    0 when `main` returns, after a signal or by itself; 1 when it raises `StartError`, whose message goes to
    stderr as one line; 128 and the signal's number when a second signal ended it. Any other exception
    passes, and the interpreter shows its traceback. Raises: TypeError for what is no function.
    """
    _check_function(main)
    raise_descriptor_limit()
    try:
        logs.configure_if_needed(log or log_from_environment())
        return trio.run(_supervise, main)
    except KeyboardInterrupt:  # before the handlers stood, or after
        return 128 + signal.SIGINT
    except (StartError, ExceptionGroup) as error:
        reasons = list(_leaves(error))
        if not all(isinstance(reason, StartError) for reason in reasons):
            raise
        logs.report(map(str, reasons))
        return 1


def _check_function(main: object) -> None:
    if inspect.iscoroutine(main):
        main.close()  # or Python would warn that it was never awaited
    if not callable(main):
        raise TypeError(f"run() takes a function, as in run(plugin.serve), and not a {type(main).__name__}")


def _port(default: int, environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise StartError(f"{name} must be a number from 0 to 65535, not {text!r}")
    return int(text)


def bind_from_environment(
    default_address: str, default_port: int, environment: Mapping[str, str] | None = None, prefix: str = ""
) -> list[str]:
    """Return what to listen on: the addresses that `BIND` names, with commas between, on the port of `PORT`.

    With a prefix it is `{prefix}BIND` and `{prefix}PORT`. Raises: StartError for what is no such thing.
    """
    environment = os.environ if environment is None else environment
    port = _port(default_port, environment, f"{prefix}PORT")
    name = f"{prefix}BIND"
    return [
        _bind(name, address, port)
        for address in list_from_environment(name, environment) or [default_address]
    ]


def _bind(name: str, address: str, port: int) -> str:
    address = address.removeprefix("[").removesuffix("]")
    try:
        Origin("http", address, 80)
    except ValueError:
        raise StartError(
            f"{name} must be an address or a host name without a port, or several with commas between,"
            f" not {address!r}"
        ) from None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def probe_bind_from_environment(environment: Mapping[str, str] | None = None) -> list[str] | None:
    """Return where to answer probes and nothing else, as `PROBE_PORT` and `PROBE_BIND` say.

    Without `PROBE_BIND` on all addresses: who probes a container is outside of it. None without `PROBE_PORT`.
    Raises: StartError for what is no such thing.
    """
    environment = os.environ if environment is None else environment
    if not environment.get("PROBE_PORT"):
        return None
    return bind_from_environment("::", 0, environment, prefix="PROBE_")


def addresses_from_environment(name: str, environment: Mapping[str, str] | None = None) -> list[str] | None:
    """Return the addresses with ports that a variable lists with commas between; None without it.

    Raises: StartError for what is no such thing.
    """
    addresses = list_from_environment(name, environment)
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            Origin("http", host.removeprefix("[").removesuffix("]"), 80)
            is_good = port.isascii() and port.isdigit() and int(port) < 2**16
        except ValueError:
            is_good = False
        if not is_good:
            raise StartError(f"{name} must be an address with a port, as in 127.0.0.1:9464, not {address!r}")
    return addresses or None


def config_from_environment(environment: Mapping[str, str] | None = None) -> ServeConfig:
    """Return how to serve, as the environment says. Raises: StartError for nonsense.

    `HTTP_SERVER` is `hypercorn`, or is not set: see `Http1Engine`. `TLS_CERT`, `TLS_KEY` and `TLS_CA` are
    files, and `TLS_CLIENTS` is `none`, `optional` or `required`: see `TlsConfig`. `ALLOWED_HOSTS` and
    `ALLOWED_ORIGINS` are lists with commas between, `MAX_CONNECTIONS` is a number: see `ServeConfig`.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get("HTTP_SERVER", "")
    if chosen not in {"", "hypercorn"}:
        raise StartError(f"HTTP_SERVER must be 'hypercorn', or not be set, not {chosen!r}")
    try:
        return ServeConfig(
            http1_engine=Http1Engine(chosen) if chosen else Http1Engine.OWN,
            tls=tls_from_environment(environment),
            allowed_hosts=tuple(list_from_environment("ALLOWED_HOSTS", environment)),
            allowed_origins=tuple(list_from_environment("ALLOWED_ORIGINS", environment)),
            max_connections=_max_connections(environment),
        )
    except ValueError as error:
        raise StartError(f"ALLOWED_HOSTS and ALLOWED_ORIGINS: {error}") from error


def _max_connections(environment: Mapping[str, str]) -> int:
    text = environment.get("MAX_CONNECTIONS") or str(ServeConfig().max_connections)
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text)):
        raise StartError(f"MAX_CONNECTIONS must be a number from 1 to {'9' * _MOST_DIGITS}, not {text!r}")
    return int(text)


def log_from_environment(environment: Mapping[str, str] | None = None) -> LogConfig:
    """Return the format and the levels of the log, as `LOG_FORMAT` and `LOG_LEVEL` say.

    Raises: StartError for a format or a level that does not exist.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get("LOG_FORMAT") or LogFormat.TEXT.value
    if chosen not in [each.value for each in LogFormat]:
        raise StartError(f"LOG_FORMAT must be 'text' or 'json', not {chosen!r}")
    try:
        return LogConfig(LogFormat(chosen), logs.parse_levels(environment.get("LOG_LEVEL", "")))
    except ValueError as error:
        raise StartError(f"LOG_LEVEL {error}") from None


def secret_from_environment(name: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the secret that a variable has, or the file that `{name}_FILE` names; empty if there is none.

    Raises: StartError for a file that cannot be read, or is empty; its content is not in the message.
    """
    environment = os.environ if environment is None else environment
    secret, path = environment.get(name, ""), environment.get(f"{name}_FILE", "")
    if secret or not path:
        return secret
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise StartError(f"{name}_FILE: cannot read {path}: {reason(error)}") from None
    if not secret:  # which would be the same as to ask for none
        raise StartError(f"{name}_FILE: {path} is empty")
    return secret


def flag_from_environment(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a variable is `true`; without it, it is not. Raises: StartError for another value."""
    environment = os.environ if environment is None else environment
    value = environment.get(name) or "false"
    if value not in {"true", "false"}:
        raise StartError(f"{name} must be 'true' or 'false', not {value!r}")
    return value == "true"


def list_from_environment(name: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return what a variable lists with commas between; empty without it."""
    environment = os.environ if environment is None else environment
    return [part for part in map(str.strip, environment.get(name, "").split(",")) if part]


async def _supervise(main: Callable[[trio.Event], Awaitable[None]]) -> int:
    async with _watched_signals() as signals:
        with collecting_garbage():
            await main(signals.stop)
    return 0 if signals.forced is None else 128 + signals.forced


@asynccontextmanager
async def _watched_signals() -> AsyncIterator[_Signals]:
    signals = _Signals()
    failure: Exception | None = None
    with trio.open_signal_receiver(*_SIGNALS) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, received, signals, nursery.cancel_scope)
            try:
                yield signals
            except Exception as error:  # noqa: BLE001 - raised below, where the nursery does not wrap it
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _watch(received: AsyncIterator[int], signals: _Signals, body: trio.CancelScope) -> None:
    async for number in received:
        name = signal.Signals(number).name
        if signals.stop.is_set():
            logger.warning("%s while stopping: ending at once", name)
            signals.forced = signal.Signals(number)
            body.cancel()
        else:
            logger.info("%s: stopping; a second signal ends at once", name)
            signals.stop.set()


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[Any] = error
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error
