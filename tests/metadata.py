"""Names of header fields: those that are metadata of a call, and those that are not for its ends to send."""

from __future__ import annotations

METADATA = (
    *(
        "x-tenant",
        "X-App-Key",
        "my-key-bin",
        "my_key",
        "my.key-bin",
        "x-api-key",
        "x-user",
        "tenant",
        "baggage-x",
    ),
    *(
        "accept-language",
        "b3",
        "x-b3-traceid",
        "grpc-trace-bin",
        "grpc-tags-bin",
        "x-amzn-trace-id",
        "referer",
    ),
    *(
        "x-correlation-id",
        "user-agent",
        "x-pluginless",
        "x-forwardedness",
        "hostname",
        "cookies",
        "proxies",
        "te-x",
    ),
)
"""Fields that go from one end of a call to the other."""

CREDENTIALS = (
    *("authorization", "cookie", "cookie2", "proxy-authenticate", "proxy-authorization", "set-cookie"),
    "set-cookie2",
)
CLAIMS = (
    *("x-plugin-runtime-id", "x-plugin-caller", "x-plugin-caller-id", "x-plugin-undelivered", "x-plugin-new"),
    *(
        "forwarded",
        "via",
        "x-forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ),
    *("x-forwarded-client-cert", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-cluster-client-ip"),
    *(
        "proxy-client-ip",
        "wl-proxy-client-ip",
        "remote-user",
        "x-remote-group",
        "x-original-url",
        "x-rewrite-url",
    ),
    *("x-http-method-override", "x-http-method", "x-method-override", "x-http-host-override", "x-host"),
    *("x-envoy-internal", "x-envoy-external-address", "x-amzn-oidc-data", "x-amzn-mtls-clientcert"),
    *(
        "ssl-client-verify",
        "ssl-client-cert",
        "x-ssl-client-dn",
        "client-cert",
        "x-client-cert",
        "x-arr-clientcert",
    ),
    *(
        "x-scheme",
        "front-end-https",
        "script-name",
        "path-info",
        "proxy",
        "x-appengine-user-ip",
        "fastly-client-ip",
    ),
    *("x-accel-redirect", "x-sendfile", "x-ms-client-principal", "x-goog-iap-jwt-assertion"),
)
FOR_ONE_CONNECTION = (
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "upgrade",
    "te",
    "trailer",
    "origin",
)
NEVER = (*CREDENTIALS, *CLAIMS)
"""Fields that no end of a call may send, in any spelling."""


def spelled(name: str) -> list[str]:
    """Return names that somebody takes for this one."""
    under = name.replace("-", "_")
    return [
        name,
        name.title(),
        name.upper(),
        under,
        under.upper(),
        name.replace("-", "."),
        f"HTTP_{under.upper()}",
    ]
