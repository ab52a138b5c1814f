"""The example's api plugin: provides `api`, requires `storage`. `python -m cpg_trio.demo.api`.

It answers clients outside; the other two plugins answer only calls that come through the host.
"""

from __future__ import annotations

import secrets
import sys
from typing import NoReturn

from cpg_trio import Plugin
from cpg_trio.demo._command import run_plugin
from cpg_trio.demo._plain_http import Form, plain_http
from cpg_trio.demo._urls import check_url
from cpg_trio.protos.api.v1 import api_pb2 as pb
from cpg_trio.protos.api.v1.api_trio import APIService
from cpg_trio.protos.storage.v1.storage_pb2 import GetRequest, StoreRequest
from cpg_trio.protos.storage.v1.storage_trio import StorageClient
from cpg_trio.rpc import Code, ConnectError, Context

FORMS = {
    "Shorten": Form(required=("url",), missing="Missing url parameter", failure="Storage failed: {message}"),
    "Resolve": Form(required=("code",), missing="Missing code parameter", not_found="Not found: {message}"),
}
_CODE_BYTES = 4
_MAX_TRIES = 16  # to find a free code; with a billion codes in use, one try in four meets one of them
_STORAGE_TIMEOUT_S = 5.0
_AWAY = Code.UNAVAILABLE, "storage is not available"
# What callers get for an error of storage, by its code. Others are internal errors.
_ERRORS = {
    Code.NOT_FOUND: (Code.NOT_FOUND, "not found"),
    Code.DEADLINE_EXCEEDED: (Code.DEADLINE_EXCEEDED, "storage did not answer in time"),
    Code.UNAVAILABLE: _AWAY,
    Code.UNIMPLEMENTED: _AWAY,  # a 404 of the router: the provider has just gone
    Code.UNAUTHENTICATED: _AWAY,  # the host has been restarted
}


class API(APIService):
    """Makes short codes for URLs, and resolves them."""

    def __init__(self, storage: StorageClient) -> None:
        self._storage = storage

    async def shorten(self, request: pb.ShortenRequest, _ctx: Context, /) -> pb.ShortenResponse:
        """Return a code for a URL. Raises: ConnectError `invalid_argument`, or the error of storage."""
        check_url(request.url)
        for _ in range(_MAX_TRIES):
            code = secrets.token_hex(_CODE_BYTES)
            try:
                await self._storage.store(
                    StoreRequest(code=code, url=request.url), timeout_s=_STORAGE_TIMEOUT_S
                )
            except ConnectError as error:
                if error.code != Code.ALREADY_EXISTS:
                    _pass_on(error)
            else:
                return pb.ShortenResponse(short_code=code, url=request.url)
        raise ConnectError(Code.RESOURCE_EXHAUSTED, "no free code was found")

    async def resolve(self, request: pb.ResolveRequest, _ctx: Context, /) -> pb.ResolveResponse:
        """Return the URL of a code. Raises: ConnectError `not_found`, or another error of storage."""
        if not request.code:
            raise ConnectError(Code.INVALID_ARGUMENT, "code cannot be empty")
        try:
            found = await self._storage.get(GetRequest(code=request.code), timeout_s=_STORAGE_TIMEOUT_S)
        except ConnectError as error:
            _pass_on(error)
        return pb.ResolveResponse(url=found.url)


def _pass_on(error: ConnectError) -> NoReturn:
    """Raise an error of storage as an error of this service, without details that callers should not see."""
    code, text = _ERRORS.get(error.code, (Code.INTERNAL, "storage has an internal error"))
    raise ConnectError(code, text) from error


def api_plugin() -> Plugin:
    """Return the plugin."""
    plugin = Plugin("api-plugin", version="1.0.0", name="API Plugin", default_port=8083)
    storage = plugin.require("storage", version=">=1.0,<2").client(StorageClient)
    plugin.provide(
        "api",
        API(storage),
        middleware=plain_http(pb.DESCRIPTOR.services_by_name["API"], FORMS),
        public=True,
    )
    return plugin


if __name__ == "__main__":
    sys.exit(run_plugin(api_plugin().serve, __doc__))
