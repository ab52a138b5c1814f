"""The command `config`: the configuration that is in effect, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import NOTHING, Column, JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.settings import Setting

_COLUMNS = (
    Column("SETTING"),
    Column("VALUE", prose=True),
    Column("SOURCE"),
    Column("MEANING", prose=True, optional=True),
)


def config(
    *,
    changed: Annotated[bool, Parameter(help="Only what is not the default.")] = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Show the configuration of the host."""
    answer = call_admin(options, lambda host: host.get_configuration(pb.GetConfigurationRequest()))
    shown = [each for each in answer.settings if not (changed and each.source == "default")]
    if json:
        show_json(pb.GetConfigurationResponse(settings=shown))
    else:
        show_settings(shown)
    return 0


def show_settings(settings: Iterable[pb.Setting | Setting]) -> None:
    """Print settings as a table."""
    rows = ((each.name, each.value or NOTHING, each.source, each.meaning) for each in settings)
    Output().table(_COLUMNS, rows)
