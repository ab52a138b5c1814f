"""The command `call`: its arguments. `_calling` does it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from cpg_trio.cli._errors import UsageError

_HOST_URL = "http://127.0.0.1:8080"
# What proves the identity of the call, or is made anew on the way.
_NOT_GIVEN = frozenset({"authorization", "content-length", "content-type", "host", "x-plugin-runtime-id"})


@Parameter(name="*")
@attrs.frozen
class CallOptions:
    """How a call is made."""

    host: Annotated[
        str,
        Parameter(
            help=f"URL of the host, or of several with commas between (default: HOST_URL, or {_HOST_URL})."
        ),
    ] = ""
    as_: Annotated[
        str,
        Parameter(name="--as", help="Name to call as (default: cpg-trio-call); ENROLMENT_TOKEN lets it in."),
    ] = "cpg-trio-call"
    header: Annotated[
        Sequence[str],
        Parameter(name=("--header", "-H"), help="A header field of the call, as in 'name: value'."),
    ] = ()
    timeout: Annotated[float | None, Parameter(help="Seconds that the call may take (default: any).")] = None
    describe: Annotated[
        bool, Parameter(help="Print the methods and their messages as a .proto file has them.")
    ] = False
    proto_descriptor: Annotated[
        Path | None,
        Parameter(
            help="File with a FileDescriptorSet (`buf build -o FILE`), for a plugin without REFLECTION=true."
        ),
    ] = None
    verbose: Annotated[
        bool,
        Parameter(
            name=("--verbose", "-v"), help="Print status, duration, provider and ids to standard error."
        ),
    ] = False


_USUAL = CallOptions()


def call(
    service: Annotated[str, Parameter(help="Type of the service, as in greeter.")],
    method: Annotated[
        str, Parameter(help="Name of the method, short or full; without one, the methods are listed.")
    ] = "",
    message: Annotated[
        str | None,
        Parameter(
            help="The message as JSON, several for a stream; @FILE reads a file, - standard input"
            " (default: an empty message; standard input for a stream).",
            allow_leading_hyphen=True,  # for -
        ),
    ] = None,
    /,
    *,
    options: CallOptions = _USUAL,
) -> int:
    """Call a method of a plugin through the host, and print the answers as JSON, one a line.

    The status is 1 if the call fails, with a line `code: message` on standard error.
    """
    if message is not None and message.startswith("-") and message != "-":
        raise UsageError(f"there is no option {message.partition('=')[0]} (see cpg-trio call --help)")
    headers = dict(_field(each) for each in options.header)
    if options.timeout is not None and not options.timeout > 0:
        raise UsageError(f"--timeout is a number of seconds above 0, not {options.timeout:g}")
    from cpg_trio.cli._calling import call_of, run  # noqa: PLC0415 - slow to import

    command = call_of(
        os.environ,
        service_type=service,
        method=method,
        message=message,
        host_url=options.host or os.environ.get("HOST_URL") or _HOST_URL,
        self_id=options.as_,
        headers=headers,
        timeout_s=options.timeout,
        describe=options.describe,
        descriptor_set=options.proto_descriptor,
        verbose=options.verbose,
    )
    return run(command)


def _field(text: str) -> tuple[str, str]:
    """Return name and value of a header field. Raises: CommandError."""
    name, colon, value = text.partition(":")
    name = name.strip().lower()
    if not (colon and name and text.isascii() and text.isprintable()):
        raise UsageError(f"--header is like 'name: value', in ASCII, not {text!r}")
    if name in _NOT_GIVEN:
        raise UsageError(f"--header: {name} is set by the call itself")
    return name, value.strip()
