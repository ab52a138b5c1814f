"""The command `add`: start a plugin of the platform file that does not run yet."""

from __future__ import annotations

import math
from typing import Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._managed import show_managed
from cpg_trio.cli._output import JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb


def add(
    plugin: Annotated[str, Parameter(help="Its name in the platform file.", name="plugin", show=True)],
    /,
    *,
    reason: ReasonOption = "",
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Start a plugin as the platform file says, and wait until it is ready."""
    request = pb.AddPluginRequest(plugin=plugin, reason=reason)
    answer = call_admin(options, lambda host: host.add_plugin(request, timeout_s=math.inf))
    show_json(answer) if json else show_managed(answer.plugin, Output())
    return 0
