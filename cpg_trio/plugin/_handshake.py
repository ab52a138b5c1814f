"""The first word to a host."""

from __future__ import annotations

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import HandshakeServiceClient
from cpg_trio._version import __version__
from cpg_trio.rpc import Exchange, ResponseMetadata

CALL_TIMEOUT_S = 5.0  # of one call to the host: long for one that works, short for one that does not


async def shake_hands(
    host_url: str,
    exchange: Exchange,
    self_id: str = "",
    version: str = "",
    metadata: ResponseMetadata | None = None,
) -> pb.HandshakeResponse:
    """Ask a host for an identity; without a `self_id`, only what it says of itself. Raises: ConnectError.

    `metadata` receives the headers of its answer, also of a refusal.
    """
    return await HandshakeServiceClient(host_url, exchange).handshake(
        pb.HandshakeRequest(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            magic_cookie_key=wire.COOKIE_KEY,
            magic_cookie_value=wire.COOKIE_VALUE,
            client_metadata={wire.CLIENT_VERSION_KEY: __version__},
            self_id=self_id,
            self_version=version,
        ),
        timeout_s=CALL_TIMEOUT_S,
        metadata=metadata or ResponseMetadata(),
    )
