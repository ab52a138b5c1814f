"""The example's command-line client: `python -m cpg_trio.demo.client shorten https://example.com`.

`API_URL` is the URL of the api plugin (default: http://localhost:8083). For https, `TLS_CA` is the file of
the certificate authority that verifies it (default: those of the system), and `TLS_CERT` and `TLS_KEY` are
the client's own certificate, if it shows one.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from cpg_trio import rpc
from cpg_trio._terminal import tolerant
from cpg_trio.http import Origin, Pool, StartError
from cpg_trio.process import config_from_environment
from cpg_trio.protos.api.v1.api_pb2 import ResolveRequest, ShortenRequest
from cpg_trio.protos.api.v1.api_trio import APIClient
from cpg_trio.variables import misspelt

DEFAULT_API_URL = "http://localhost:8083"
_TIMEOUT_S = 10.0


async def shorten(api_url: str, url: str) -> str:
    """Shorten a URL; return the text to print. Raises: ConnectError."""
    async with _pool() as pool:
        api = APIClient(api_url, pool)
        answer = await api.shorten(ShortenRequest(url=url), timeout_s=_TIMEOUT_S)
    resolve = f"{api_url}/api.v1.API/Resolve?code={answer.short_code}"
    return (
        f"✓ Shortened URL\n  Original: {answer.url}\n  Code:     {answer.short_code}\n  Resolve:  {resolve}"
    )


async def resolve(api_url: str, code: str) -> str:
    """Resolve a code; return the text to print. Raises: ConnectError."""
    async with _pool() as pool:
        answer = await APIClient(api_url, pool).resolve(ResolveRequest(code=code), timeout_s=_TIMEOUT_S)
    return f"✓ Resolved short code: {code}\n  URL: {answer.url}"


async def check(api_url: str) -> str:
    """Shorten and resolve a URL, and try to resolve an unknown code; return the text to print.

    Only storage knows codes, so both answers come through the host. Raises: ConnectError, also for a wrong
    answer.
    """
    url = f"https://example.com/{secrets.token_hex(8)}"
    async with _pool() as pool:
        api = APIClient(api_url, pool)
        code = (await api.shorten(ShortenRequest(url=url), timeout_s=_TIMEOUT_S)).short_code
        resolved = (await api.resolve(ResolveRequest(code=code), timeout_s=_TIMEOUT_S)).url
        if resolved != url:
            raise rpc.ConnectError(rpc.Code.DATA_LOSS, f"{code} stands for {url}, and resolves to {resolved}")
        await _must_not_resolve(api, secrets.token_hex(16))
    return f"✓ Shortened and resolved {url} ({code})\n✓ An unknown code is not found"


async def _must_not_resolve(api: APIClient, code: str) -> None:
    try:
        found = await api.resolve(ResolveRequest(code=code), timeout_s=_TIMEOUT_S)
    except rpc.ConnectError as error:
        if error.code != rpc.Code.NOT_FOUND:
            raise
    else:
        raise rpc.ConnectError(rpc.Code.DATA_LOSS, f"{code} is unknown, and resolves to {found.url}")


def _pool() -> Pool:
    """Return a connection pool with the TLS settings of the environment. Raises: StartError."""
    contexts = config_from_environment().tls.client_contexts()
    contexts.check()
    return Pool(ssl_context=contexts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpg_trio.demo.client", description="Shorten and resolve URLs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("shorten", help="make a short code for a URL").add_argument("url")
    commands.add_parser("resolve", help="find the URL behind a short code").add_argument("code")
    commands.add_parser("check", help="check that both work, all the way to storage")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, or 1 with a message on standard error."""
    tolerant(sys.stdout)
    for sentence in misspelt(os.environ):
        print(sentence, file=sys.stderr)
    chosen = _parser().parse_args(arguments)
    api_url = (os.environ.get("API_URL") or DEFAULT_API_URL).rstrip("/")
    try:
        Origin.parse(api_url)
    except ValueError as error:
        print(f"API_URL: {error}", file=sys.stderr)
        return 1
    calls: Mapping[str, Callable[[], Awaitable[str]]] = {
        "shorten": lambda: shorten(api_url, chosen.url),
        "resolve": lambda: resolve(api_url, chosen.code),
        "check": lambda: check(api_url),
    }
    try:
        print(trio.run(calls[chosen.command]))
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    except rpc.ConnectError as error:
        print(f"✗ {chosen.command} failed: {error.code.value}: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
