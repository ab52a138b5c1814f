"""The command `dashboard`: a loopback port by which a browser sees and steers a host."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._admin_address import find_admin
from cpg_trio.variables import SECRETS

if TYPE_CHECKING:
    import trio

    from cpg_trio.cli._admin_address import AdminAddress

_DISPLAYS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
_MOST_PORT = 65535


def dashboard(
    *,
    port: Annotated[
        int,
        Parameter(
            help="Loopback port to open (default: a free one).",
            validator=validators.Number(gte=0, lte=_MOST_PORT),
        ),
    ] = 0,
    browser: Annotated[
        bool,
        Parameter(
            name="--open", negative="--no-open", help="Open a browser (default: if there is a display)."
        ),
    ] = True,
    options: AdminOptions = HERE,
) -> int:
    """Open the dashboard of a host in a browser, until Ctrl-C."""
    from cpg_trio.process import run  # noqa: PLC0415
    from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb  # noqa: PLC0415 - `--help` needs neither

    place = find_admin(options.admin, os.environ)
    call_admin(options, lambda host: host.get_status(pb.GetStatusRequest()))  # an error says what to do

    async def serve(stop: trio.Event) -> None:
        await _serve(place, port, stop, browser=browser and _has_display())

    return run(serve)


async def _serve(place: AdminAddress, port: int, stop: trio.Event, *, browser: bool) -> None:
    import trio  # noqa: PLC0415 - as above

    from cpg_trio.cli._admin_client import token_for  # noqa: PLC0415
    from cpg_trio.host import admin  # noqa: PLC0415
    from cpg_trio.http.certificates import tls_from_environment  # noqa: PLC0415

    if place.socket is None:
        address = admin.AdminAddress.of_url(place.url, token_for(place, os.environ))
    else:
        address = admin.AdminAddress.of_socket(place.socket)
    contexts = tls_from_environment(os.environ).client_contexts()
    async with (
        admin.open_gate(address, port=port, ssl_context=contexts) as gate,
        trio.open_nursery() as nursery,
    ):
        url = gate.one_time_address()
        print(url, flush=True)
        print("good for one use, within 2 minutes; Ctrl-C ends the dashboard", file=sys.stderr, flush=True)
        if browser:
            nursery.start_soon(_open_browser, url)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _open_browser(url: str) -> None:
    """Open a browser. Some commands return only when the browser ends."""
    import webbrowser  # noqa: PLC0415 - as above

    import trio  # noqa: PLC0415

    for name in SECRETS:
        os.environ.pop(name, None)  # which the browser would inherit
    if not await trio.to_thread.run_sync(webbrowser.open, url, abandon_on_cancel=True):
        print("no browser was found: open this address in one", file=sys.stderr)


def _has_display() -> bool:
    """Whether a browser would open a window, and not take the terminal."""
    return sys.platform == "darwin" or any(map(os.environ.get, _DISPLAYS))
