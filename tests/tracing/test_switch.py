"""When tracing is on, and what is said if it cannot be."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from cpg_trio.call_record import Calls
from cpg_trio.http import StartError
from cpg_trio.tracing import tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


async def is_on(environment: dict[str, str]) -> bool:
    calls = Calls()
    async with tracing("x", "1.0.0", environment, server=[calls]):
        on = calls.tracer is not None
    assert calls.tracer is None
    assert not calls.ended._listeners
    return on


async def test_it_is_on_if_there_is_an_endpoint() -> None:
    assert not await is_on({})
    assert await is_on(ENDPOINT)
    assert await is_on({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"})


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_variables_of_opentelemetry_switch_it_off(off: dict[str, str]) -> None:
    assert not await is_on(ENDPOINT | off)


async def test_another_protocol_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert not await is_on(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert caplog.messages == ["no traces: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not 'grpc'"]


async def test_a_sampler_that_is_none_is_an_error_at_the_start() -> None:
    with pytest.raises(StartError, match="OTEL_TRACES_SAMPLER must be one of"):
        await is_on(ENDPOINT | {"OTEL_TRACES_SAMPLER": "some"})


async def test_a_package_that_is_missing_is_named_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    monkeypatch.delitem(sys.modules, "cpg_trio.tracing.export", raising=False)
    with caplog.at_level(logging.WARNING):
        assert not await is_on(ENDPOINT)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but a package is")
    assert caplog.messages[0].endswith("pip install 'cpg-trio[otel]'")


def test_off_it_imports_nothing_of_opentelemetry() -> None:
    script = (
        "import sys, trio\n"
        "from cpg_trio.host import Host\n"
        "stop = trio.Event(); stop.set()\n"
        "trio.run(lambda: Host().serve(stop, bind='127.0.0.1:0'))\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
