"""Metrics of a host or a plugin for Prometheus, on an address of their own.

Nothing is counted for them: collectors read at each scrape what others keep. What stands on what:

    families    metrics with their samples, in pieces
    calls       the table of calls as metrics
    process     what each process has: its build, its event loop, its log, its connections
    exposition  the text that Prometheus reads, made piece by piece
    port        the address that answers it
"""

from cpg_trio.metrics.calls import CallMetrics as CallMetrics, Side as Side
from cpg_trio.metrics.families import counters as counters, gauges as gauges
from cpg_trio.metrics.port import metrics_port as metrics_port
from cpg_trio.metrics.process import ProcessMetrics as ProcessMetrics
