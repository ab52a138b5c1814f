"""Calls from host to host: each states which host it comes from, and who has called that host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from cpg_trio import wire
from cpg_trio.host.access import Keys, Peer, RefusedError
from cpg_trio.host.cluster.owners import Member, Owners
from cpg_trio.host.cluster.statements import (
    NOBODY,
    AnotherHostError,
    HostStatement,
    InvalidStatementError,
    sign_statement,
    verify_statement,
)
from cpg_trio.host.directory import MAX_ANSWER_BYTES, SignedClient
from cpg_trio.http import Pool
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    Context,
    Fault,
    PoolClient,
    ServiceClient,
)

_C = TypeVar("_C", bound=ServiceClient)

REFUSED, NOT_OWNER = "refused", "not-owner"
"""Why a host has not taken a call of another one, in the header of its answer."""


class HostCalls:
    """Makes clients of other hosts, and checks what these state. `wall_clock` gives seconds since 1970."""

    def __init__(
        self, owners: Owners, keys: Keys, pool: Pool, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._owners = owners
        self._keys = keys
        self._pool = pool
        self._wall_clock = wall_clock

    def client(
        self,
        client_class: type[_C],
        host: Member,
        plugin: str,
        peer: Peer = NOBODY,
        headers: Mapping[str, str] | None = None,
    ) -> _C:
        """Return a client of a host, for calls of, or about, a plugin. `peer` is who has called this host."""

        def sign(path: str) -> tuple[str, str]:
            method = "/".join(path.split("/")[-2:])
            statement = HostStatement(
                issuer=self._owners.own_id, audience=host.id, path=f"/{method}", plugin=plugin, peer=peer
            )
            signed = sign_statement(self._keys.all, statement, self._wall_clock())
            return wire.FORWARDED_BY_HOST_HEADER.lower(), signed

        http = SignedClient(PoolClient(self._pool, (host.address,), peer=Fault.HOST), sign)
        config = ClientConfig(headers=headers or {}, max_message_bytes=MAX_ANSWER_BYTES)
        return client_class(host.url, http, config)

    def stated(self, ctx: Context, plugin: str) -> HostStatement:
        """Return what another host states of a call of, or about, a plugin.

        Raises: RefusedError `permission_denied` if no other host states anything of this very call.
        """
        token = ctx.request_headers.get(wire.FORWARDED_BY_HOST_HEADER, "")
        expected = self._owners.own_id, f"/{ctx.method.service_name}/{ctx.method.name}", plugin
        try:
            if not self._owners.own_id:
                raise InvalidStatementError("this host shares its directory with nobody")  # noqa: TRY301
            return verify_statement(token, self._keys.all, expected, self._wall_clock())
        except InvalidStatementError as error:
            is_anothers = isinstance(error, AnotherHostError)
            ctx.response_headers[wire.FORWARDED_BY_HOST_HEADER] = NOT_OWNER if is_anothers else REFUSED
            why = f"{wire.FORWARDED_BY_HOST_HEADER} is for the hosts of this directory alone: {error}"
            raise RefusedError(Code.PERMISSION_DENIED, why) from error
