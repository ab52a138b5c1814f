"""The command `reload`: have the host read its files now."""

from __future__ import annotations

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import Column, JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

_COLUMNS = Column("VARIABLE"), Column("FILE"), Column("RESULT", prose=True)


def reload(*, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Read policy, enrolment tokens, keys and certificates again."""
    answer = call_admin(options, lambda host: host.reload(pb.ReloadRequest()))
    if json:
        show_json(answer)
    elif not answer.files:
        print("the host is configured by no file that could be read again")
    else:
        rows = ((each.name, each.path, each.error or "read") for each in answer.files)
        Output().table(_COLUMNS, rows)
    return 1 if any(each.error for each in answer.files) else 0
