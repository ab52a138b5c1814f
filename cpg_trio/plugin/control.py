"""What a plugin serves for its host: who it is, how it is, and the host's hold on it.

The guard stands before all of it (see `guard`): nobody but the plugin's own host gets here.
"""

from __future__ import annotations

from typing import Protocol

from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginControlService, PluginIdentityService
from cpg_trio.http import Origin
from cpg_trio.rpc import Code, ConnectError, Context


class Runtime(Protocol):
    """What these services need of the plugin that they speak for."""

    def info(self) -> pb.GetPluginInfoResponse:
        """Return what it is."""
        ...

    def health_report(self) -> pb.ReportHealthRequest:
        """Return how it is."""
        ...

    def shut_down(self, grace_s: float, reason: str) -> None:
        """Begin to stop."""
        ...

    def adopt(self, runtime_id: str, token: str, host_url: str) -> bool:
        """Take an identity from a managing host; return whether the plugin wants one."""
        ...


def _check_identity(request: pb.SetRuntimeIdentityRequest) -> None:
    for name, value in (("runtime_id", request.runtime_id), ("runtime_token", request.runtime_token)):
        if not (value.isascii() and value.isprintable() and value.strip() == value != ""):
            raise ConnectError(Code.INVALID_ARGUMENT, f"{name} must be printable ASCII, and not empty")
    if not request.host_url:
        return
    try:
        Origin.parse(request.host_url)
    except ValueError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"host_url is none: {error}") from error


class Control(PluginControlService):
    """`PluginControl`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def get_health(self, _request: pb.GetHealthRequest, _ctx: Context, /) -> pb.GetHealthResponse:
        """Return what the plugin would report now."""
        report = self._runtime.health_report()
        return pb.GetHealthResponse(
            state=report.state,
            reason=report.reason,
            unavailable_dependencies=report.unavailable_dependencies,
        )

    async def shutdown(self, request: pb.ShutdownRequest, _ctx: Context, /) -> pb.ShutdownResponse:
        """Begin to stop, with the grace that the host gives."""
        if request.grace_period_seconds < 0:
            raise ConnectError(Code.INVALID_ARGUMENT, "grace_period_seconds cannot be negative")
        self._runtime.shut_down(float(request.grace_period_seconds), request.reason)
        return pb.ShutdownResponse(acknowledged=True)


class PluginInfo(PluginIdentityService):
    """`PluginIdentity`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def get_plugin_info(
        self, _request: pb.GetPluginInfoRequest, _ctx: Context, /
    ) -> pb.GetPluginInfoResponse:
        """Return what the plugin is."""
        return self._runtime.info()

    async def set_runtime_identity(
        self, request: pb.SetRuntimeIdentityRequest, _ctx: Context, /
    ) -> pb.SetRuntimeIdentityResponse:
        """Take an identity from a managing host.

        Raises: ConnectError `failed_precondition` if the plugin looks for its host itself.
        """
        _check_identity(request)
        if not self._runtime.adopt(request.runtime_id, request.runtime_token, request.host_url):
            raise ConnectError(Code.FAILED_PRECONDITION, "this plugin registers by itself: HOST_URL is set")
        return pb.SetRuntimeIdentityResponse(acknowledged=True)
