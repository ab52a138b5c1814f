"""Traces: spans of the calls that a host or a plugin answers and makes, exported by OpenTelemetry.

Tracing is on if the environment names where to export to. Only then is OpenTelemetry imported, which is the
extra `otel`. What stands on what:

    sampling    whether a trace is sampled, decided without OpenTelemetry
    recorder    spans of calls, from their records
    export      the exporter in its thread, and the resource
    switch      whether tracing is on
"""

from cpg_trio.tracing.switch import Tracing as Tracing, tracing as tracing
