"""A session with a host of a client that provides nothing: a handshake, some calls, and a leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from ssl import SSLContext

import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._version import __version__
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts, parse_host_urls
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Introduction, Provider, Session, handshake
from cpg_trio.plugin._token_renewal import keep_renewed
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ConnectError

_LEAVE_S = 2.0


class ClientSession:
    """A client's session, which can find services and call them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def runtime_id(self) -> str:
        """The name under which the host knows the client."""
        return self._session.runtime_id

    async def discover(self, service_type: str, version: str = "") -> Provider:
        """Return the provider of a service that the host chooses, of a version range if one is given.

        Raises: ConnectError.
        """
        request = pb.DiscoverServiceRequest(service_type=service_type, version_range=version)
        session = self._session
        timeout_s = session.hosts.patience_s(CALL_TIMEOUT_S)
        call = partial(session.registry.discover_service, request, timeout_s=timeout_s)
        answer = await session.hosts.ask(call)
        return Provider.at(self._session, answer.endpoint)


@asynccontextmanager
async def client_session(
    host_url: str,
    self_id: str,
    requires: Sequence[str],
    *,
    enrolment_token: str = "",
    ssl_context: Callable[[], SSLContext] | None = None,
) -> AsyncIterator[ClientSession]:
    """Be a client of a host within the block, which may call the service types in `requires`.

    `host_url` may be several with commas between, of hosts that share a directory: one that answers is used.
    At the end the host forgets the identity. Raises: ConnectError.
    """
    introduction = Introduction(self_id, __version__, (), requires, enrolment_token)
    async with Pool(ssl_context=ssl_context) as pool, open_plain_nursery() as nursery:
        hosts = Hosts(parse_host_urls(host_url), pool, owner=self_id)
        await hosts.look_up()
        session = await hosts.ask(partial(handshake, hosts, introduction))
        nursery.start_soon(hosts.keep)
        nursery.start_soon(keep_renewed, session, introduction)
        try:
            yield ClientSession(session)
        finally:
            nursery.cancel_scope.cancel()
            leaving = pb.ReportHealthRequest(leaving=True)
            with trio.move_on_after(_LEAVE_S, shield=True), suppress(ConnectError):
                await session.lifecycle.report_health(leaving)
