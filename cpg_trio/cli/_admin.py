"""How a command calls the admin service of a host."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, TypeVar

import attrs
from cyclopts import Parameter

from cpg_trio.cli._admin_address import find_admin

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

_T = TypeVar("_T")


@Parameter(name="*")
@attrs.frozen
class AdminOptions:
    """Which host a command is about."""

    admin: Annotated[
        str,
        Parameter(
            help="Socket or URL of the host's admin service (default: ADMIN_URL or ADMIN_SOCKET).",
            metavar="PLACE",
        ),
    ] = ""


HERE = AdminOptions()
"""The host that the environment names."""


def call_admin(
    options: AdminOptions,
    ask: Callable[[AdminServiceClient], Awaitable[_T]],
    environment: Mapping[str, str] = os.environ,
) -> _T:
    """Run `ask` with a client of the host's admin service; return what it returns. Raises: CommandError."""
    import trio  # noqa: PLC0415 - help and completion of shells need neither

    from cpg_trio.cli._admin_client import admin_client  # noqa: PLC0415

    async def asked() -> _T:
        async with admin_client(find_admin(options.admin, environment)) as host:
            return await ask(host)

    return trio.run(asked)
