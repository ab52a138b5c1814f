"""A client of the admin service, whose errors are lines for people."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from cpg_trio._addresses import is_loopback
from cpg_trio._lines import one_line
from cpg_trio._version import __version__
from cpg_trio.cli._admin_address import AdminAddress, why_not
from cpg_trio.cli._errors import CommandError, UsageError
from cpg_trio.http import Origin, Pool, StartError
from cpg_trio.http.certificates import tls_from_environment
from cpg_trio.process import secret_from_environment
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from cpg_trio.rpc.http_client import PoolClient

_TIMEOUT_S = 15.0
_LONGEST_ERROR = 1000
_MOST_BYTES = 64 * 1024 * 1024  # of the list of many plugins


@asynccontextmanager
async def admin_client(address: AdminAddress) -> AsyncIterator[AdminServiceClient]:
    """Open a client of an admin service. Errors of its calls leave the block as CommandError."""
    token = token_for(address, os.environ)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    config = ClientConfig(timeout_s=_TIMEOUT_S, headers=headers, max_message_bytes=_MOST_BYTES)
    with start_errors():
        contexts = tls_from_environment(os.environ).client_contexts()
        if address.url.startswith("https"):
            contexts.check()
    async with Pool(ssl_context=contexts) as pool:
        with command_errors(address, token_shown=bool(token)):
            if address.socket is None:
                yield AdminServiceClient(address.url, PoolClient(pool), config)
            else:
                at = (f"unix:{address.socket}",)
                yield AdminServiceClient("http://localhost", PoolClient(pool, at), config)


@contextmanager
def start_errors() -> Iterator[None]:
    """Raise an error in a variable as a CommandError."""
    try:
        yield
    except StartError as error:
        raise CommandError(str(error)) from None


@contextmanager
def command_errors(address: AdminAddress, *, token_shown: bool) -> Iterator[None]:
    """Raise the ConnectError of a call as a CommandError."""
    if address.socket is not None and (why := why_not(address.socket)):
        raise CommandError(f"no host answers at {address}: {why}")
    try:
        yield
    except ConnectError as error:
        raise CommandError(explained(error, address, token_shown=token_shown)) from error


def explained(error: ConnectError, address: AdminAddress, *, token_shown: bool) -> str:
    """Return what an error of a call means to who has asked, and what to do, in one line."""
    match error.code:
        case Code.UNAVAILABLE:
            text = f"no host answers at {address}: {error.message.removeprefix('no answer: ')}"
        case Code.UNAUTHENTICATED if token_shown:
            text = f"the host at {address} does not know this token: ADMIN_TOKEN must be that of the host"
        case Code.UNAUTHENTICATED:
            text = f"the host at {address} wants its admin token: set ADMIN_TOKEN or ADMIN_TOKEN_FILE"
        case Code.UNIMPLEMENTED | Code.UNKNOWN | Code.INTERNAL:
            text = (
                f"{address} does not answer as the admin service of cpg-trio {__version__} does"
                f" ({error.message}): name ADMIN_SOCKET or ADMIN_BIND of a host of this version"
            )
        case Code.DEADLINE_EXCEEDED:
            text = f"the host at {address} has not answered within {_TIMEOUT_S:g} s: is its process stopped?"
        case _:
            text = error.message
    return one_line(" ".join(text.split()), _LONGEST_ERROR)


def token_for(address: AdminAddress, environment: Mapping[str, str]) -> str:
    """Return the token to show; empty for none. Raises: CommandError if others could read it on the way."""
    if address.socket is not None:
        return ""
    try:
        origin, _ = Origin.parse(address.url)
    except ValueError as error:
        raise UsageError(f"the address of the admin service is not valid: {error}") from None
    with start_errors():
        secrets = secret_from_environment("ADMIN_TOKEN", environment)
    lines = (line.strip() for line in secrets.replace(",", "\n").splitlines())
    token = next((line for line in lines if line and not line.startswith("#")), "")
    plain = origin.scheme == "http" and origin.host != "localhost" and not is_loopback(origin.host)
    if token and plain and environment.get("ALLOW_PLAINTEXT") != "true":
        raise CommandError(
            f"the network could read the admin token on its way to {address}: use https, or set"
            " ALLOW_PLAINTEXT=true"
        )
    return token
