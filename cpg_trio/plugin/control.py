"""The services that a plugin serves for its host: `PluginControl` and `PluginIdentity`.

The guard checks each call first (see `guard`): only the plugin's own host gets here.
"""

from __future__ import annotations

from cpg_trio import wire
from cpg_trio.plugin._hosts import parse_host_urls
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._state import PluginState
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginControlService, PluginIdentityService
from cpg_trio.rpc import Code, ConnectError, Context


def _check_identity(request: pb.SetRuntimeIdentityRequest) -> None:
    for name, value in (("runtime_id", request.runtime_id), ("runtime_token", request.runtime_token)):
        if not (value.isascii() and value.isprintable() and value.strip() == value != ""):
            raise ConnectError(Code.INVALID_ARGUMENT, f"{name} must be printable ASCII, and not empty")
    if not request.host_url:
        return
    try:
        parse_host_urls(request.host_url)
    except ValueError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"host_url is none: {error}") from error


class Control(PluginControlService):
    """`PluginControl`."""

    def __init__(self, state: PluginState) -> None:
        self._state = state

    async def get_health(self, _request: pb.GetHealthRequest, _ctx: Context, /) -> pb.GetHealthResponse:
        """Return what the plugin would report now."""
        report = self._state.health.report.value
        return pb.GetHealthResponse(
            state=report.state,
            reason=report.reason,
            unavailable_dependencies=report.unavailable_dependencies,
        )

    async def shutdown(self, request: pb.ShutdownRequest, _ctx: Context, /) -> pb.ShutdownResponse:
        """Begin to stop; calls in flight have the grace period that the host gives."""
        if request.grace_period_seconds < 0:
            raise ConnectError(Code.INVALID_ARGUMENT, "grace_period_seconds cannot be negative")
        self._state.shut_down(float(request.grace_period_seconds), request.reason)
        return pb.ShutdownResponse(acknowledged=True)


class PluginInfo(PluginIdentityService):
    """`PluginIdentity`."""

    def __init__(self, state: PluginState) -> None:
        self._state = state

    async def get_plugin_info(
        self, _request: pb.GetPluginInfoRequest, _ctx: Context, /
    ) -> pb.GetPluginInfoResponse:
        """Return what the plugin is: its name and version, what it provides and requires."""
        declared, session = self._state.declared, self._state.session
        runtime_id = {wire.RUNTIME_ID_KEY: session.runtime_id} if session else {}
        return pb.GetPluginInfoResponse(
            self_id=declared.self_id,
            self_version=declared.version,
            provides=[
                pb.ServiceDeclaration(type=p.service_type, version=p.version, path=p.path)
                for p in declared.provided.values()
            ],
            requires=[_required(dependency) for dependency in declared.dependencies.values()],
            metadata={
                "name": declared.name,
                "version": declared.version,
                wire.RENEWS_KEY: "true",
                **runtime_id,
            },
        )

    async def set_runtime_identity(
        self, request: pb.SetRuntimeIdentityRequest, _ctx: Context, /
    ) -> pb.SetRuntimeIdentityResponse:
        """Take an identity from a managing host.

        Raises: ConnectError `failed_precondition` if the plugin looks for its host itself.
        """
        _check_identity(request)
        if (adoption := self._state.adoption) is None:
            raise ConnectError(Code.FAILED_PRECONDITION, "this plugin registers by itself: HOST_URL is set")
        adoption.offer(request.runtime_id, request.runtime_token, request.host_url)
        return pb.SetRuntimeIdentityResponse(acknowledged=True)


def _required(dependency: RequiredService) -> pb.ServiceDependency:
    return pb.ServiceDependency(
        type=dependency.service_type,
        min_version=dependency.requirement.min_version,
        required_for_startup=dependency.required,
        watch_for_changes=True,
    )
