"""Which header fields are metadata of a call, and which are not for its two ends to send. No I/O.

An application may send fields of any name. Not these, in a request, an answer or a trailer:

    of a connection  they are for the next server only, or the server here has dealt with them
    credentials      they prove who the caller is to the next server only
    claims           they say who sends a request, from where, how it came, or what is really asked; servers
                     and frameworks believe them, because proxies write them
    confusing        in another spelling, they are names that HTTP itself uses

Names are compared as the most careless reader compares them: CGI and its successors (WSGI, Rack, PHP) read
`X_Plugin_Caller`, `X.Plugin.Caller` and `X-Plugin-Caller` as one name, some programs read a field under the
name that CGI gives it (`HTTP_X_FORWARDED_FOR`), and Connect sends a trailer `a` of a unary call as the header
`trailer-a`.
"""

from __future__ import annotations

OF_CONNECTION = (
    # RFC 9110, section 7.6.1, and older names for the same
    "connection",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "sec-websocket-*",
    "host",
)
"""Fields for one connection. A name with a `*` is all that begin so."""

DEALT_WITH = ("expect", "origin")
"""Fields that the server has dealt with that gets them."""

CREDENTIALS = (
    "authorization",
    "cookie",
    "cookie2",
    "proxy-*",  # RFC 9110, section 11.7; `proxy-connection` and `proxy-client-ip` are no better
    "set-cookie",
    "set-cookie2",
)
"""Fields that prove who the caller is, or keep it."""

CLAIMS = (
    # of the platform itself
    "x-plugin-*",
    # where the request comes from: RFC 7239, and what was there before
    "forwarded",
    "via",
    "x-forwarded",
    "x-forwarded-*",
    "x-real-ip",
    "client-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-true-client-ip",
    "remote-*",
    "x-remote-*",  # also the user that a Kubernetes API server believes a proxy
    # who has shown a certificate: RFC 9440, nginx, HAProxy, Azure
    "client-cert",
    "client-cert-chain",
    "ssl-client-*",
    "x-arr-*",
    "x-client-cert*",
    "x-client-verify",
    "x-ssl-*",
    # of one proxy or platform
    "ali-cdn-*",
    "cdn-*",
    "cf-*",
    "fastly-*",
    "wl-proxy-*",
    "x-amzn-mtls-*",
    "x-amzn-oidc-*",
    "x-amzn-tls-*",
    "x-appengine-*",
    "x-azure-*",
    "x-envoy-*",
    "x-goog-authenticated-*",
    "x-goog-iap-*",
    "x-ms-client-principal*",
    # over which scheme, at which host, below which path
    "front-end-https",
    "x-host",
    "x-scheme",
    "x-ssl",
    "x-url-scheme",
    "path-info",
    "script-name",
    "x-script-name",
    # another method or another target than that of the request line, which the policy has seen
    "x-http-*",
    "x-method-override",
    "x-original-*",
    "x-rewrite-*",
    # an order to a proxy to send a file of its own
    "x-accel-redirect",
    "x-lighttpd-send-*",
    "x-sendfile",
    # which CGI takes for the environment's HTTP_PROXY (https://httpoxy.org)
    "proxy",
)
"""Fields that a proxy writes and a server believes. Only a proxy that is trusted may write them."""

# Read in another spelling, these would be another length, another type, or another call.
_MEANT_BY_PROTOCOLS = (
    *OF_CONNECTION,
    *DEALT_WITH,
    "accept",
    "accept-*",
    "b3",
    "baggage",
    "connect-*",
    "content-*",
    "grpc-*",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "x-request-id",
)
_FOLDED = bytes(
    c if c in b"abcdefghijklmnopqrstuvwxyz0123456789" else ord("-") for c in bytes(range(256)).lower()
)


class _Names:
    """Names of fields, some of them beginnings."""

    def __init__(self, *names: str) -> None:
        encoded = [name.encode() for name in names]
        self._exact = frozenset(encoded)
        self._beginnings = tuple(name[:-1] for name in encoded if name.endswith(b"*"))

    def __contains__(self, name: bytes) -> bool:
        return name in self._exact or name.startswith(self._beginnings)


_CLAIMED = _Names(*CREDENTIALS, *CLAIMS)
_NOT_PASSED_ON = _Names(*OF_CONNECTION, *DEALT_WITH)
_MEANT = _Names(*_MEANT_BY_PROTOCOLS)


def folded(name: bytes) -> bytes:
    """Return the name that the most careless reader takes a name for."""
    plain = name.translate(_FOLDED)
    while plain.startswith((b"trailer-", b"http-")):
        plain = plain[plain.index(b"-") + 1 :]
    return plain


def is_claim(name: bytes) -> bool:
    """Whether a field is a credential, a claim or confusing, by its name in any spelling.

    A field of the connection is none: it is for the server that gets it.
    """
    plain = folded(name)
    return plain in _CLAIMED or (plain in _MEANT and not name.lower().endswith(plain))


def is_metadata(name: bytes) -> bool:
    """Whether a field may go from one end of a call to the other, by its name in any spelling."""
    return not is_claim(name) and folded(name) not in _NOT_PASSED_ON
