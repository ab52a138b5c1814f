"""What every server of a handshake checks of it first, in the words of the protocol."""

from __future__ import annotations

from cpg_trio import wire
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError


def check_versions(request: pb.HandshakeRequest) -> None:
    """Check the cookie, which tells programs apart, and the versions.

    Raises: ConnectError `invalid_argument` for a foreign cookie or another core version;
    `failed_precondition` for another version of the application protocol.
    """
    if (request.magic_cookie_key, request.magic_cookie_value) != (wire.COOKIE_KEY, wire.COOKIE_VALUE):
        raise ConnectError(
            Code.INVALID_ARGUMENT, "invalid magic cookie - this may not be a connect-plugin server"
        )
    if request.core_protocol_version != wire.CORE_VERSION:
        raise ConnectError(
            Code.INVALID_ARGUMENT,
            f"unsupported core protocol version: {request.core_protocol_version}"
            f" (server supports: {wire.CORE_VERSION})",
        )
    if request.app_protocol_version != wire.APP_VERSION:
        raise ConnectError(
            Code.FAILED_PRECONDITION,
            f"version mismatch: client={request.app_protocol_version}, server={wire.APP_VERSION}",
        )
