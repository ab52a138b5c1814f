"""Whether tracing is on, and the time in which it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from cpg_trio.call_record import Calls
from cpg_trio.http import StartError
from cpg_trio.tracing.sampling import Sampler

if TYPE_CHECKING:
    from cpg_trio.tracing.recorder import Recorder

_log = logging.getLogger("cpg_trio.tracing")

_HTTP = "http/protobuf"
_FLUSH_S = 2.0  # at the end, for what has not been exported


class Tracing:
    """The traces of a host, a plugin or a session. Without a recorder it does nothing."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    def identify(self, instance_id: str) -> None:
        """Name the instance in the spans that end from now on, by its runtime id."""
        if self._recorder is not None:
            self._recorder.identify(instance_id)

    @contextmanager
    def calling(self, *made: Calls) -> Iterator[None]:
        """Within the block, make spans of more calls that are made."""
        with ExitStack() as stack:
            if self._recorder is not None:
                from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only when it is on

                for each in made:
                    stack.enter_context(self._recorder.recording(each, SpanKind.CLIENT))
            yield


@asynccontextmanager
async def tracing(
    service_name: str,
    version: str,
    environment: Mapping[str, str],
    *,
    server: Iterable[Calls],
    client: Iterable[Calls] = (),
) -> AsyncIterator[Tracing]:
    """Make spans of calls within the block, if the environment names where to export to.

    At the end, what has not been exported has `_FLUSH_S` seconds. Raises: StartError for a variable of
    OpenTelemetry that is not valid.
    """
    if not _is_wanted(environment):
        yield Tracing()
        return
    try:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only when it is on

        from cpg_trio.tracing.export import batches, resource_of  # noqa: PLC0415
        from cpg_trio.tracing.recorder import Recorder, authors_tracers  # noqa: PLC0415
    except ImportError as error:
        _log.warning(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but a package is missing (%s):"
            " pip install 'cpg-trio[otel]'",
            error.name,
        )
        yield Tracing()
        return
    try:
        sampler, processor = Sampler.from_environment(environment), batches()
    except ValueError as error:
        raise StartError(str(error)) from error
    recorder = Recorder(sampler, partial(resource_of, service_name, version), processor)
    of_authors = authors_tracers().recorders
    of_authors.append(recorder)
    with ExitStack() as stack:
        for calls, kind in [
            *((each, SpanKind.SERVER) for each in server),
            *((each, SpanKind.CLIENT) for each in client),
        ]:
            stack.enter_context(recorder.recording(calls, kind))
        try:
            yield Tracing(recorder)
        finally:
            of_authors.remove(recorder)
            with trio.move_on_after(_FLUSH_S, shield=True):
                await trio.to_thread.run_sync(processor.shutdown, abandon_on_cancel=True)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables of OpenTelemetry ask for traces over HTTP."""
    if not _endpoint(environment) or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or _HTTP
    )
    if protocol != _HTTP:
        _log.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL must be %s, not %.50r", _HTTP, protocol)
    return protocol == _HTTP


def _endpoint(environment: Mapping[str, str]) -> str:
    return (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or ""
    )
