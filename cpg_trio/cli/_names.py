"""The argument that names a plugin, and its completion in a shell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb


def plugin_names(_context: object) -> Iterable[tuple[str, str]]:
    """Return the names of the host's plugins for the completion of a shell; none if there is no host."""
    from cpg_trio.cli._admin import HERE, call_admin  # noqa: PLC0415 - only a completion needs it

    answer = call_admin(HERE, lambda host: host.list_plugins(pb.ListPluginsRequest()))
    return [(each.name, each.reason) for each in answer.plugins]


PluginName = Annotated[
    str,
    Parameter(
        help="A plugin's name, its id, or an unambiguous beginning of that.",
        name="plugin",
        completer=plugin_names,
        show=True,
    ),
]
