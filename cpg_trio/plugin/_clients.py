"""`HandshakeService` and `HealthService` for clients without a host, where they are switched on.

A client of another SDK of the protocol shakes hands with what it calls, by the cookie. Here it learns which
services there are and how the plugin does, and gets no identity: the cookie is public, and proves nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from cpg_trio import wire
from cpg_trio._cell import Reader
from cpg_trio._handshake import check_versions
from cpg_trio._nursery import open_plain_nursery
from cpg_trio._version import __version__
from cpg_trio.asgi import App
from cpg_trio.plugin._declaration import Provided
from cpg_trio.plugin._state import PluginState
from cpg_trio.protos.connectplugin.health.v1 import health_pb2
from cpg_trio.protos.connectplugin.health.v1.health_trio import HealthService
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import HandshakeService
from cpg_trio.rpc import Code, ConnectError, Context, application

_MOST_WATCHES = 100
_MAX_MESSAGE_BYTES = 64 * 1024


def for_clients(state: PluginState) -> dict[str, App]:
    """Return the services by path."""
    services = (Handshake(state), Health(state))
    return {
        f"/{each.service_name}/": application([each], max_message_bytes=_MAX_MESSAGE_BYTES)
        for each in services
    }


class Handshake(HandshakeService):
    """`HandshakeService`."""

    def __init__(self, state: PluginState) -> None:
        self._provided = state.declared.provided

    async def handshake(self, request: pb.HandshakeRequest, _ctx: Context, /) -> pb.HandshakeResponse:
        """Return what the plugin provides of what a client asks for, by the types of its services.

        Raises: ConnectError, see `check_versions`; `invalid_argument` for what breaks a rule.
        """
        check_versions(request)
        try:
            wire.validate_handshake(request.self_version, request.requested_plugins, request.client_metadata)
        except wire.InvalidError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
        asked = (self._provided.get(name) for name in dict.fromkeys(request.requested_plugins))
        return pb.HandshakeResponse(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            plugins=[_info(provided) for provided in asked if provided is not None],
            server_metadata={wire.SERVER_VERSION_KEY: __version__},
        )


def _info(provided: Provided) -> pb.PluginInfo:
    declared = pb.ServiceDeclaration(type=provided.service_type, version=provided.version, path=provided.path)
    return pb.PluginInfo(
        name=provided.service_type,
        version=provided.version,
        service_path=provided.path,
        provides=[declared],
    )


class Health(HealthService):
    """`HealthService`: the health of the plugin as a whole (the empty name), and of each of its services."""

    def __init__(self, state: PluginState) -> None:
        self._state = state
        self._watches = 0

    async def check(
        self, request: health_pb2.HealthCheckRequest, _ctx: Context, /
    ) -> health_pb2.HealthCheckResponse:
        """Return a status. Raises: ConnectError `not_found` for a name that is not known."""
        status = self._status(request.service)
        if status == health_pb2.SERVING_STATUS_SERVICE_UNKNOWN:
            raise ConnectError(Code.NOT_FOUND, f"unknown service: {request.service}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(
        self, request: health_pb2.HealthCheckRequest, _ctx: Context, /
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the current status, then each change of it, until the plugin begins to stop.

        Raises: ConnectError `resource_exhausted`.
        """
        if self._watches >= _MOST_WATCHES:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, f"there are {_MOST_WATCHES} watches already")
        self._watches += 1
        try:
            told, reports = None, self._state.health.report.reader()
            while True:
                status = self._status(request.service)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if self._state.stopping.is_set():
                    return
                await self._changed(reports)
        finally:
            self._watches -= 1

    async def _changed(self, reports: Reader[pb.ReportHealthRequest]) -> None:
        """Wait for another report, or until the plugin begins to stop."""
        async with open_plain_nursery() as nursery:

            async def end_with_the_plugin() -> None:
                await self._state.stopping.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_the_plugin)
            await anext(reports)
            nursery.cancel_scope.cancel()

    def _status(self, service: str) -> health_pb2.ServingStatus:
        state = self._state
        if service and service not in state.declared.provided:
            return health_pb2.SERVING_STATUS_SERVICE_UNKNOWN
        is_down = state.stopping.is_set() or state.health.report.value.state == pb.HEALTH_STATE_UNHEALTHY
        return health_pb2.SERVING_STATUS_NOT_SERVING if is_down else health_pb2.SERVING_STATUS_SERVING
