"""Checks of a `Launcher`: whatever starts plugins has to pass them."""

from __future__ import annotations

from cpg_trio.testing import _launcher_checks
from cpg_trio.testing._checks import checks_of, run_check
from cpg_trio.testing._launcher_check import MakeLauncher, Tested, a_host

_TIMEOUT_S = 120.0  # of one check, real time


async def check_launcher(make_launcher: MakeLauncher) -> None:
    """Put a launcher through its paces, in a Trio task.

    `make_launcher` is given the name of a Python plugin, as in `cpg_trio.testing.launched:serves`, and
    returns a launcher that starts it, with `python -m cpg_trio.launch.run` or in a way of its own. The
    plugins of the checks come to a host that the checks run, and have to reach it at its URL.

    Raises: AssertionError, which says which check has failed, and why. What a launcher raises that it may
    not raise is the cause of one.
    """
    for check in checks_of(_launcher_checks, Tested):
        async with a_host() as (host, url, token):
            await run_check(check, Tested(make_launcher, host, url, token), _TIMEOUT_S)
