"""The example's api plugin: provides `api`, requires `storage`. `python -m cpg_trio.demo.api`.

What people outside call; the other two are behind the host.
"""

from __future__ import annotations

import re
import secrets
import sys
from typing import NoReturn
from urllib.parse import urlsplit

from cpg_trio import rpc
from cpg_trio._gen.api.v1 import api_pb2 as pb
from cpg_trio._gen.api.v1.api_trio import APIService
from cpg_trio._gen.storage.v1.storage_pb2 import GetRequest, StoreRequest
from cpg_trio._gen.storage.v1.storage_trio import StorageClient
from cpg_trio.demo._container import container
from cpg_trio.demo._plain_http import Form, plain_http
from cpg_trio.plugin import Plugin

FORMS = {
    "Shorten": Form(required=("url",), missing="Missing url parameter", failure="Storage failed: {message}"),
    "Resolve": Form(required=("code",), missing="Missing code parameter", not_found="Not found: {message}"),
}
MAX_URL_BYTES = 32 * 1024

_CODE_BYTES = 4
_MAX_TRIES = 16  # to find a free code; with a billion taken, one try in four finds one taken
_STORAGE_TIMEOUT_S = 5.0
_NOT_IN_A_HOST = re.compile(r"[\s<>\\^|`{}\"]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_START = re.compile(r"https?://", re.IGNORECASE)


class API(APIService):
    """Makes codes for URLs, and finds the URLs again."""

    def __init__(self, storage: StorageClient) -> None:
        self._storage = storage

    async def shorten(self, request: pb.ShortenRequest, _ctx: rpc.Context, /) -> pb.ShortenResponse:
        """Return a code that nobody else has. Raises: ConnectError `invalid_argument`; storage's own."""
        check_url(request.url)
        for _ in range(_MAX_TRIES):
            code = secrets.token_hex(_CODE_BYTES)
            try:
                await self._storage.store(
                    StoreRequest(code=code, url=request.url), timeout_s=_STORAGE_TIMEOUT_S
                )
            except rpc.ConnectError as error:
                if error.code != rpc.Code.ALREADY_EXISTS:
                    _pass_on(error)
            else:
                return pb.ShortenResponse(short_code=code, url=request.url)
        raise rpc.ConnectError(rpc.Code.RESOURCE_EXHAUSTED, "no free code was found")

    async def resolve(self, request: pb.ResolveRequest, _ctx: rpc.Context, /) -> pb.ResolveResponse:
        """Return the URL behind a code. Raises: ConnectError `not_found`; storage's own."""
        if not request.code:
            raise rpc.ConnectError(rpc.Code.INVALID_ARGUMENT, "code cannot be empty")
        try:
            found = await self._storage.get(GetRequest(code=request.code), timeout_s=_STORAGE_TIMEOUT_S)
        except rpc.ConnectError as error:
            _pass_on(error)
        return pb.ResolveResponse(url=found.url)


def check_url(url: str) -> None:
    """Raise ConnectError `invalid_argument` for what is not an absolute http or https URL."""
    try:
        parts = urlsplit(url)
        has_host = parts.hostname and not _NOT_IN_A_HOST.search(parts.netloc) and parts.port != 0
        good = _START.match(url) and has_host
    except ValueError:
        good = False
    if not good or _CONTROL.search(url):
        raise rpc.ConnectError(rpc.Code.INVALID_ARGUMENT, "url must be an absolute http or https URL")
    if len(url.encode()) > MAX_URL_BYTES:
        raise rpc.ConnectError(rpc.Code.INVALID_ARGUMENT, f"url is longer than {MAX_URL_BYTES} bytes")


def _pass_on(error: rpc.ConnectError) -> NoReturn:
    """Raise an error of storage's as one of ours: what it means for the caller, not how it came."""
    match error.code:
        case rpc.Code.NOT_FOUND:
            raise rpc.ConnectError(rpc.Code.NOT_FOUND, "not found") from error
        case rpc.Code.UNAVAILABLE | rpc.Code.UNIMPLEMENTED | rpc.Code.UNAUTHENTICATED:
            # The provider has just gone (which is what a 404 of the router means), or the host is new.
            raise rpc.ConnectError(rpc.Code.UNAVAILABLE, "storage is not available") from error
        case rpc.Code.DEADLINE_EXCEEDED:
            raise rpc.ConnectError(error.code, "storage did not answer in time") from error
        case _:
            raise rpc.ConnectError(rpc.Code.INTERNAL, "storage did not do it") from error


def api_plugin() -> Plugin:
    """Return the plugin."""
    plugin = Plugin("api-plugin", version="1.0.0", name="API Plugin", default_port=8083)
    storage = plugin.require("storage", min_version="1.0.0")
    plugin.provide(
        "api",
        API(storage.client(StorageClient)),
        middleware=plain_http(pb.DESCRIPTOR.services_by_name["API"], FORMS),
        public=True,
    )
    return plugin


if __name__ == "__main__":
    sys.exit(container(__doc__, api_plugin().serve))
