"""Registering the services of a plugin with its host, and taking the registrations back when it leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from cpg_trio import wire
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.plugin._declaration import Declaration, Provided
from cpg_trio.plugin._retry import RefusedError, retry_until_done, try_a_few_times
from cpg_trio.plugin._serving import Addresses
from cpg_trio.plugin._session import REGISTER_TIMEOUT_S, Session
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")

_LEAVE_S = 2.0  # for taking registrations back: a host that does not answer must not delay a stop


class Registrations:
    """What a plugin has registered with its host."""

    def __init__(self, declared: Declaration, addresses: Addresses) -> None:
        self._declared = declared
        self._addresses = addresses
        self._ids: list[str] = []
        self._former: list[str] = []

    async def register(self, session: Session) -> bool:
        """Register all services; return False if the host does not know the identity any more.

        Raises: RefusedError.
        """
        for provided in self._declared.provided.values():
            request = self._request(provided, session)
            call = partial(self._register_one, session, request)
            what = f"register {provided.service_type}"
            try:
                await retry_until_done(self._declared.self_id, what, call, session.heartbeat_s)
            except ConnectError:
                return False
            except RefusedError as error:
                if not session.managed:
                    raise
                _log.warning("%s", error)  # a managing host may give another identity that works
                return False
            url = self._addresses.base_url
            _log.info("Registered service: %s v%s at %s", provided.service_type, provided.version, url)
        with trio.move_on_after(_LEAVE_S):
            await _unregister(session, self._former)
        return True

    def forget(self, session: Session) -> None:
        """Forget what was registered in a session that has ended.

        A host that does not say which one it is may have let a token expire, and may still have the
        registrations: the next session takes them back.
        """
        self._former = [] if session.host_id else self._ids
        self._ids = []

    async def leave(self, session: Session | None) -> None:
        """Tell the host to send no more calls, and take all registrations back.

        The identity of who has registered nothing ends with the report.

        What the host cannot be told is written to the log once. None is a plugin without a host.
        """
        if session is None:
            return
        failures: list[str] = []
        with trio.move_on_after(_LEAVE_S) as limit:
            if self._ids:
                stopping = pb.ReportHealthRequest(state=pb.HEALTH_STATE_UNHEALTHY, reason="stopping")
            else:  # nobody calls it, so that it need not be unhealthy first
                stopping = pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY, leaving=True)
            failures.append(await try_a_few_times(partial(_report, session, stopping)))
            failures += await _unregister(session, self._ids)
        if limit.cancelled_caught:
            failures.append(f"no answer within {_LEAVE_S:g} s")
        if why := next(filter(None, failures), ""):
            _log.info("%s leaves without its host: %s", self._declared.self_id, why)

    def _request(self, provided: Provided, session: Session) -> pb.RegisterServiceRequest:
        return pb.RegisterServiceRequest(
            service_type=provided.service_type,
            version=provided.version,
            endpoint_path=provided.path,
            metadata=_metadata(self._addresses, session),
        )

    async def _register_one(
        self, session: Session, request: pb.RegisterServiceRequest, metadata: ResponseMetadata
    ) -> None:
        # Also completed when a stop begins meanwhile: what the host has registered has to be taken back. An
        # error is raised behind the block, so that it is none of a plugin that is being cancelled.
        failed: ConnectError | None = None
        async with open_plain_nursery() as nursery:
            with trio.CancelScope(shield=True) as shielded:
                nursery.start_soon(_limit_when_cancelled, shielded)
                at, call = session.hosts.current, session.registry.register_service
                try:
                    response = await call(request, timeout_s=REGISTER_TIMEOUT_S, metadata=metadata)
                except ConnectError as error:
                    if error.code == Code.UNAVAILABLE:
                        at.dismissed(error.message)
                    elif error.code == Code.DEADLINE_EXCEEDED and not metadata.headers:
                        at.silent(error.message)
                    failed = error
                else:
                    self._ids.append(response.registration_id)
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed


async def _report(session: Session, stopping: pb.ReportHealthRequest) -> None:
    """Tell the host to send no more calls. Raises: ConnectError."""
    at, timeout_s = session.hosts.current, session.hosts.patience_s(_LEAVE_S, _LEAVE_S)
    try:
        await session.lifecycle.report_health(stopping, timeout_s=timeout_s)
    except ConnectError as error:
        if error.code == Code.DEADLINE_EXCEEDED:
            at.silent(error.message)
        raise


async def _unregister(session: Session, registration_ids: Sequence[str]) -> list[str]:
    """Take registrations back; return for each why that failed, empty if it did not."""
    requests = [pb.UnregisterServiceRequest(registration_id=each) for each in registration_ids]
    calls = [partial(session.registry.unregister_service, request) for request in requests]
    return [await try_a_few_times(call) for call in calls]


def _metadata(addresses: Addresses, session: Session) -> Mapping[str, str]:
    """Return where the host finds the plugin."""
    metadata = {wire.BASE_URL_KEY: addresses.base_url}
    if session.hosts.local is None:  # no other way leads to a task than through its host
        metadata[wire.DIRECT_KEY] = "true"
    if addresses.control_url:
        metadata[wire.CONTROL_URL_KEY] = addresses.control_url
    if session.hosts.current.has_socket:  # host and plugin share a directory
        metadata[wire.SOCKET_KEY] = addresses.socket
    return metadata


async def _limit_when_cancelled(shielded: trio.CancelScope) -> None:
    """Once this task is cancelled, give a shielded block `_LEAVE_S` more seconds."""
    try:
        await trio.sleep_forever()
    finally:
        shielded.deadline = trio.current_time() + _LEAVE_S
