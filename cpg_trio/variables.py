"""The variables of the environment that this project reads, and those that somebody seems to have misspelt.

To the system a variable that nobody reads is no error: `HOST_ULR` is as if nothing had been said. So who
starts a process is told of what looks like one of these and is none. `check` imports this module: it stands
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

SERVING = frozenset(
    {
        *("PORT", "BIND", "PROBE_PORT", "PROBE_BIND", "SOCKET_DIR", "HTTP_SERVER", "MAX_CONNECTIONS"),
        *("TLS_CERT", "TLS_KEY", "TLS_CA", "TLS_CLIENTS", "ALLOWED_ORIGINS", "ALLOWED_HOSTS"),
    }
)
"""Of everybody who listens."""
HOST = frozenset(
    {
        *("ALLOW_PLAINTEXT", "BASE_URLS", "LEASE_S", "STATE_PATH", "SELECTION", "RATE_LIMITS"),
        *("PUBLIC_URL", "CPG_HOST_KEY", "CPG_HOST_KEY_FILE", "ENROLMENT_TOKENS", "ENROLMENT_TOKENS_FILE"),
        *("POLICY_FILE", "PASS_HEADERS", "LIMITS"),
    }
)
"""Of a host."""
PLUGIN = frozenset(
    {
        *("HOST_URL", "HOSTNAME", "CONTROL_PORT", "CONTROL_BIND", "ENROLMENT_TOKEN", "ENROLMENT_TOKEN_FILE"),
        *("ACCEPT_UNSIGNED", "DIRECT_CALLS"),
    }
)
"""Of a plugin."""
EXAMPLE = frozenset({"STORAGE_PATH", "DATABASE_URL", "API_URL"})
"""Of the example."""
KNOWN = SERVING | HOST | PLUGIN | EXAMPLE

_PREFIXES = ("CPG_", "CONTROL_", "ENROLMENT_", "PROBE_", "TLS_")
_SIMILAR = 0.85  # of 1, by difflib; HOST_ULR is 0.875
_SHORT = 6  # letters: of names with fewer, only other orders of the same letters are similar


def misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence on each variable that is none of these, and looks as if it was to be one.

    One that is near to another that is set is taken for somebody else's.
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
    """Return the known variable that a name is near to; empty if there is none."""
    name = name.upper().replace("-", "_")
    if name in KNOWN:
        return name
    letters = sorted(name)
    for known in KNOWN:
        if len(known) == len(name) and sorted(known) == letters:
            return known
    return _similar(name) if len(name) >= _SHORT else ""


def _similar(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - hardly ever needed, and `check` is to be quick

    # What is much longer or shorter is not similar, and comparing is dear.
    near = [known for known in KNOWN if abs(len(known) - len(name)) <= 2 and len(known) >= _SHORT]  # noqa: PLR2004
    return next(iter(get_close_matches(name, sorted(near), n=1, cutoff=_SIMILAR)), "")
