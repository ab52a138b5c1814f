"""The handshake with a host. It gives a plugin its identity, and later another token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import HandshakeServiceClient
from cpg_trio._version import __version__
from cpg_trio.rpc import HttpClient, ResponseMetadata

CALL_TIMEOUT_S = 5.0  # of one call to the host
# Of a registration: the host may resolve two names (3 s each), ask at a socket (1 s), and write a file.
REGISTER_TIMEOUT_S = 12.0


@attrs.frozen
class Introduction:
    """What a plugin tells of itself. The default tells nothing, and gets no identity."""

    self_id: str = ""
    version: str = ""
    provides: Sequence[str] | None = None
    """The only service types that it will register. None allows all."""
    requires: Sequence[str] | None = None
    """The only service types that it will call. None allows all."""
    enrolment_token: str = attrs.field(default="", repr=False)
    """The token that hosts may ask for."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The client metadata of the handshake."""
        declared = {wire.PROVIDES_KEY: self.provides, wire.REQUIRES_KEY: self.requires}
        return {
            wire.CLIENT_VERSION_KEY: __version__,
            wire.RENEWS_KEY: "true",
            **{key: ",".join(types) for key, types in declared.items() if types is not None},
        }


NOBODY = Introduction()


async def shake_hands(
    host_url: str,
    http: HttpClient,
    introduction: Introduction = NOBODY,
    proof: Mapping[str, str] | None = None,
    metadata: ResponseMetadata | None = None,
) -> pb.HandshakeResponse:
    """Request an identity, or another token for the identity that `proof` proves, if it is still valid.

    Without a `self_id`, request only what the host tells of itself. `metadata` receives the headers of the
    answer, also those of an error. Raises: ConnectError.
    """
    headers = dict(proof or {})
    if introduction.enrolment_token:
        headers[wire.ENROLMENT_HEADER] = introduction.enrolment_token
    return await HandshakeServiceClient(host_url, http).handshake(
        pb.HandshakeRequest(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            magic_cookie_key=wire.COOKIE_KEY,
            magic_cookie_value=wire.COOKIE_VALUE,
            client_metadata=introduction.metadata,
            self_id=introduction.self_id,
            self_version=introduction.version,
        ),
        headers=headers,
        timeout_s=CALL_TIMEOUT_S,
        metadata=metadata or ResponseMetadata(),
    )
