"""What a plugin serves for its host: who it is, how it is, and the host's hold on it.

Anyone may ask who and how; no plugin acts on a call that does not prove to come from its host.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginControlService, PluginIdentityService
from cpg_trio.http1 import Origin
from cpg_trio.rpc import Code, ConnectError, Context

from ._session import Session


class Runtime(Protocol):
    """What these services need of the plugin that they speak for."""

    @property
    def session(self) -> Session | None:
        """Its standing with its host."""
        ...

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


def _check_host(ctx: Context, session: Session | None) -> None:
    """Raise ConnectError `unauthenticated` unless the call proves to come from the host of the session."""
    authorization = ctx.request_headers.get(wire.AUTHORIZATION_HEADER, "")
    shown = authorization.removeprefix(wire.BEARER_PREFIX).encode()
    expected = wire.control_credential(wire.token_digest(session.token)).encode() if session else b""
    if not session or not hmac.compare_digest(shown, expected):
        raise ConnectError(Code.UNAUTHENTICATED, "only the plugin's own host may do this")


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

    async def shutdown(self, request: pb.ShutdownRequest, ctx: Context, /) -> pb.ShutdownResponse:
        """Begin to stop, with the grace that the host gives. Raises: ConnectError for anyone but the host."""
        _check_host(ctx, self._runtime.session)
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
        self, request: pb.SetRuntimeIdentityRequest, ctx: Context, /
    ) -> pb.SetRuntimeIdentityResponse:
        """Take an identity from a managing host.

        The first may come from anyone, as the plugin has no host to know yet; another only from the host of
        the first. Raises: ConnectError `failed_precondition` if the plugin looks for its host itself.
        """
        if self._runtime.session is not None:
            _check_host(ctx, self._runtime.session)
        _check_identity(request)
        if not self._runtime.adopt(request.runtime_id, request.runtime_token, request.host_url):
            raise ConnectError(Code.FAILED_PRECONDITION, "this plugin registers by itself: HOST_URL is set")
        return pb.SetRuntimeIdentityResponse(acknowledged=True)
