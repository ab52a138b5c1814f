"""The environment variables that this project reads: what each means, and which names look misspelt.

The operating system reports no error for a variable that nobody reads, such as `HOST_ULR`. So each program
that starts warns of variables that look like one of these. `docs/reference/variables.md` has the same tables,
and `--help` of each command prints its own.

The command `check` imports this module, and has to start fast: it imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Name: meaning and default.
SERVING: dict[str, str] = {
    "PORT": "port to listen on (default: 8080 for a host; the default port of a plugin, or a free one)",
    "BIND": (
        "addresses to listen on, separated by commas; :: is all addresses (default: 127.0.0.1 for a host;"
        " a plugin: localhost if its host is on this machine and TLS_CERT is not set, otherwise ::)"
    ),
    "PROBE_PORT": (
        "additional port that answers only /healthz, /readyz and /health, without TLS (default: none;"
        " PORT answers them as well)"
    ),
    "PROBE_BIND": "addresses of PROBE_PORT (default: ::)",
    "METRICS_BIND": (
        "addresses with ports that answer Prometheus at /metrics, and nothing else, without TLS, separated by"
        " commas, as in 127.0.0.1:9464 (default: none)"
    ),
    "TLS_CERT": (
        "file (PEM) of the own certificate; it may be replaced while the program runs (default: no TLS)"
    ),
    "TLS_KEY": "file (PEM) of the key of TLS_CERT (default: the key is in TLS_CERT)",
    "TLS_CA": (
        "file (PEM) of the certificate authority that verifies servers that are called, and clients that"
        " show a certificate (default: the authorities of the system)"
    ),
    "TLS_CLIENTS": (
        "whether clients show a certificate: none, optional (a certificate that is shown must be valid)"
        " or required (default: optional with TLS_CERT and TLS_CA, otherwise none)"
    ),
    "ALLOWED_ORIGINS": (
        "origins of the web pages that may call, separated by commas, as in https://app.example; * is any"
        " (default: none)"
    ),
    "ALLOWED_HOSTS": (
        "names that clients may use in the Host header besides the program's own, separated by commas; *"
        " is any (default: none)"
    ),
    "MAX_CONNECTIONS": "connections at once, from 1 to 999999 (default: 10000)",
    "SOCKET_DIR": (
        "directory that host and plugins share, for calls through Unix sockets in it (default: none;"
        " calls use TCP)"
    ),
    "HTTP_SERVER": (
        "hypercorn: h11, the parser of Hypercorn, reads and writes each message as well, which is slower"
        " (default: the project's own engine only)"
    ),
    "LOG_FORMAT": "text (for people) or json (one object a line, for programs) (default: text)",
    "LOG_LEVEL": (
        "least level of the lines of the log, and of single loggers, as in info,myplugin=debug: debug, info,"
        " warning, error or critical (default: info)"
    ),
}
"""Of each program that listens: a host, a plugin."""

HOST: dict[str, str] = {
    "ALLOW_PLAINTEXT": (
        "true: start without TLS though other machines reach the host; the network can then read all"
        " tokens (default: false)"
    ),
    "PUBLIC_URL": (
        "URL at which plugins reach the host, where a proxy is in front of it (default: the URL that they"
        " call)"
    ),
    "PEER_URL": (
        "URL at which the other hosts with the same STATE_URL reach this one (default: the first address that"
        " it listens on)"
    ),
    "PEER_ADDRESS": (
        "IP address for that, where the name in PEER_URL leads to several hosts (default: where it leads)"
    ),
    "BASE_URLS": (
        "where plugins may have the host send traffic: caller (to the address that they call from), proved"
        " (also to where they answer the host) or any (default: caller; proved with STATE_URL)"
    ),
    "LEASE_S": (
        "seconds that a plugin may be silent before it gets no more calls; after the same time again its"
        " registration is removed (default: 15)"
    ),
    "STATE_PATH": (
        "file (SQLite) in which registrations outlive a restart (default: none; plugins register again)"
    ),
    "STATE_URL": (
        "store that several hosts share, in place of STATE_PATH, as in etcd://etcd-0:2379,etcd-1:2379/prefix;"
        " with TLS etcds:// and ?ca=FILE&cert=FILE&key=FILE; with a user etcd://user@…; it needs CPG_HOST_KEY"
        " or CPG_HOST_KEY_FILE, the same for all hosts (default: none; the directory is this host's alone)"
    ),
    "STATE_PASSWORD": "password of the user of STATE_URL (default: none)",
    "STATE_PASSWORD_FILE": "file of that password; read again each time that it is needed (default: none)",
    "SELECTION": (
        "which of several providers a caller gets, by service type, as in"
        " storage=round-robin,logger=random: first, round-robin, random or least-loaded (default: first)"
    ),
    "RATE_LIMITS": (
        "calls a second and at once by kind of call, as in handshake=10/20,discover=off (default: the"
        " table in docs/security.md)"
    ),
    "LIMITS": (
        "limits of what the host accepts and keeps, as in max_identities=1000,max_watches=500; the host"
        " reduces those that do not fit its memory (default: the table in docs/security.md)"
    ),
    "CPG_HOST_KEY": (
        "secret that signs tokens, of 32 characters or more; several, separated by commas, to change keys"
        " (default: a key file beside STATE_PATH, or a key that ends with the process)"
    ),
    "CPG_HOST_KEY_FILE": (
        "file of that secret, one key a line; created if missing, read again when it changes (default: none)"
    ),
    "ENROLMENT_TOKENS": (
        "tokens that let plugins in, as in storage-plugin=TOKEN,logger-plugin=TOKEN (default: every"
        " plugin is let in)"
    ),
    "ENROLMENT_TOKENS_FILE": (
        "file of those tokens, a name and its token a line; read again when it changes (default: none)"
    ),
    "POLICY_FILE": (
        "file (TOML) of the rules for what plugins may provide and call; read again when it changes"
        " (default: what plugins declare)"
    ),
    "ADMIN_SOCKET": (
        "Unix socket on which operators see and steer the host, or off; {port} in it is the port of the host"
        " (default: cpg-trio/{port}.sock in XDG_RUNTIME_DIR, or /tmp/cpg-trio-UID/{port}.sock without it)"
    ),
    "ADMIN_BIND": (
        "other addresses with ports for operators, separated by commas, as in 127.0.0.1:9090; they need"
        " ADMIN_TOKEN (default: none)"
    ),
    "ADMIN_TOKEN": (
        "secret of 32 characters or more that opens ADMIN_BIND; several, separated by commas, to change it"
        " (default: none)"
    ),
    "ADMIN_TOKEN_FILE": ("file of that secret, one a line; read again when it changes (default: none)"),
    "LOG_CALLS": (
        "of which routed calls the log has lines: all, off, or a share of them, as in 0.01; those that fail"
        " are logged always (default: all)"
    ),
    "PASS_HEADERS": (
        "the only request headers that are passed on besides the usual ones, as in x-tenant,x-app-*"
        " (default: all but credentials and what proxies write)"
    ),
}
"""Of a host."""

PLUGIN: dict[str, str] = {
    "HOST_URL": (
        "URL of the host, or several, separated by commas, of hosts that share a directory (default: none;"
        " the plugin waits for a managing host to call)"
    ),
    "HOSTNAME": (
        "name or address at which the host reaches the plugin; unused by a plugin that listens on this"
        " machine only (default: localhost)"
    ),
    "ENROLMENT_TOKEN": "token that lets the plugin in, where the host requires one (default: none)",
    "ENROLMENT_TOKEN_FILE": "file of that token (default: none)",
    "CONTROL_PORT": (
        "separate port for the services that only the host may call (default: none; they are on PORT)"
    ),
    "CONTROL_BIND": "addresses of CONTROL_PORT (default: localhost)",
    "DIRECT_CALLS": (
        "true: call providers without the host in between, where the host permits it (default: false)"
    ),
    "ACCEPT_UNSIGNED": (
        "true: accept calls whose caller no host has signed, as with the Go host (default: false)"
    ),
    "REFLECTION": (
        "true: describe the services to those who may call them, for `cpg-trio call`, grpcurl and others"
        " (default: false)"
    ),
    "HANDSHAKE_CLIENTS": (
        "true: answer handshakes and HealthService to clients without a host, as Go clients call them; they"
        " get no identity (default: false)"
    ),
}
"""Of a plugin."""

TRACING: dict[str, str] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "URL to which traces are exported by OTLP over HTTP, as in http://collector:4318 (default: none;"
        " no traces)"
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (
        "the same with the path of traces, as in http://collector:4318/v1/traces (default: none)"
    ),
    "OTEL_EXPORTER_OTLP_PROTOCOL": "protocol of the export; there is one (default: http/protobuf)",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "the same for traces alone (default: http/protobuf)",
    "OTEL_TRACES_EXPORTER": "otlp, or none for no traces (default: otlp)",
    "OTEL_TRACES_SAMPLER": (
        "which traces are recorded: always_on, always_off, traceidratio, or each of them with parentbased_"
        " before, which has a trace that began elsewhere recorded if its caller records it (default:"
        " parentbased_always_on)"
    ),
    "OTEL_TRACES_SAMPLER_ARG": "share of traceidratio, from 0 to 1 (default: 1)",
    "OTEL_SDK_DISABLED": "true: no traces (default: false)",
}
"""Of a host and a plugin with the extra `otel`: OpenTelemetry's own, of which there are more."""

EXAMPLE: dict[str, str] = {
    "DATABASE_URL": (
        "storage: PostgreSQL database, as in postgresql://user:password@host:5432/database (default:"
        " none; the file of STORAGE_PATH)"
    ),
    "STORAGE_PATH": "storage: SQLite file (default: url-shortener.sqlite3)",
    "API_URL": "client: URL of the api plugin (default: http://localhost:8083)",
}
"""Of the example."""

COMMANDS: dict[str, str] = {
    "ADMIN_URL": (
        "URL of a host's admin service, or unix: and its socket; its token is in ADMIN_TOKEN (default:"
        " ADMIN_SOCKET, or the socket of the host on PORT)"
    ),
}
"""Of the commands that see and steer a host."""

SECRETS = frozenset({"ADMIN_TOKEN", "CPG_HOST_KEY", "ENROLMENT_TOKEN", "ENROLMENT_TOKENS", "STATE_PASSWORD"})
"""Of all: those whose value is a secret. They have no flag, as other users see command lines."""

PATHS = frozenset(
    {
        "ADMIN_SOCKET",
        "ADMIN_TOKEN_FILE",
        "CPG_HOST_KEY_FILE",
        "ENROLMENT_TOKENS_FILE",
        "POLICY_FILE",
        "SOCKET_DIR",
        "STATE_PASSWORD_FILE",
        "STATE_PATH",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
    }
)
"""Of a host: those whose value is a path. In a platform file it is relative to the directory of the file."""

KNOWN = frozenset({**SERVING, **HOST, **PLUGIN, **TRACING, **EXAMPLE, **COMMANDS})

_PREFIXES = ("ADMIN_", "CPG_", "CONTROL_", "ENROLMENT_", "PROBE_", "TLS_")
_SIMILAR = 0.85  # ratio of difflib, of 1; that of HOST_ULR and HOST_URL is 0.875
_SHORT = 6  # shorter names are similar only if they have the same letters in another order


def meaning_of(text: str) -> str:
    """Return the meaning of a variable, without its default."""
    return text.partition(" (default: ")[0]


def default_of(text: str) -> str:
    """Return the default of a variable."""
    return text.partition(" (default: ")[2].removesuffix(")")


def flag_of(name: str) -> str:
    """Return the flag of the command line for a variable."""
    return f"--{name.lower().replace('_', '-')}"


def help_text(*groups: dict[str, str], flags: bool = False) -> str:
    """Return the variables of some groups as `--help` prints them; with `flags`, their flags, too."""
    from textwrap import fill  # noqa: PLC0415 - `check` does not need it

    indent = " " * 4
    paragraphs = [
        f"  {_label(name, flags=flags)}\n{fill(text, 79, initial_indent=indent, subsequent_indent=indent)}"
        for group in groups
        for name, text in group.items()
    ]
    return "\n".join(["flags and environment variables:" if flags else "environment variables:", *paragraphs])


def _label(name: str, *, flags: bool) -> str:
    return f"{flag_of(name)}, {name}" if flags and name not in SECRETS else name


def misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that is not read here but looks as if it should be.

    A name that is similar to a variable that is set as well is taken for a variable of another program.
    """
    for name in environment:
        if name in KNOWN:
            continue
        meant = _nearest(name)
        if meant and meant not in environment:
            yield f"{name} in the environment is not a variable that is read here; {meant} is: is that meant?"
        elif name.startswith(_PREFIXES):
            yield f"{name} in the environment is not a variable that is read here"


def _nearest(name: str) -> str:
    """Return the known variable that a name is similar to; empty if there is none."""
    name = name.upper().replace("-", "_")
    if name in KNOWN:
        return name
    letters = sorted(name)
    for known in KNOWN:
        if len(known) == len(name) and sorted(known) == letters:
            return known
    return _similar(name) if len(name) >= _SHORT else ""


def _similar(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - rarely needed, and `check` has to start fast

    # A name that is much longer or shorter is not similar, and a comparison is slow.
    near = [known for known in KNOWN if abs(len(known) - len(name)) <= 2 and len(known) >= _SHORT]  # noqa: PLR2004
    return next(iter(get_close_matches(name, sorted(near), n=1, cutoff=_SIMILAR)), "")
