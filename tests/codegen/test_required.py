"""A message without a field that its proto requires (proto2) is not sent, and who is at fault is told."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.message import EncodeError

from cpg_trio.codegen.project import Project
from cpg_trio.rpc import AsgiTransport, Code, ConnectError, Context, application

PROTO = """\
syntax = "proto2";
package required_test;
service Greeter { rpc Greet(Text) returns (Text); }
message Text { required string text = 1; }
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stubs of a service whose messages require a field."""
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/required_test.proto").write_text(PROTO)
    project = Project(tmp_path / "proto", tmp_path / "required_made", "required_made")
    project.write(project.generate())
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("required_made.required_test_trio")


async def test_it_is_an_error_of_the_client_or_an_internal_one_of_the_service(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    text = made.GreeterService.rpcs[0].request

    class Greeter(made.GreeterService):  # type: ignore[misc] # made by the test
        async def greet(self, _request: Any, _ctx: Context, /) -> Any:
            return text()

    async with httpx.AsyncClient(transport=AsgiTransport(application([Greeter()]))) as http:
        client = made.GreeterClient("http://plugin", http)
        with pytest.raises(EncodeError, match="missing required fields: text"):
            await client.greet(text())
        with caplog.at_level(logging.ERROR), pytest.raises(ConnectError) as failed:
            await client.greet(text(text="a"))
    assert failed.value.code is Code.INTERNAL
    assert "Greet returned a message without fields that it requires: text" in caplog.text
