"""Measurements of a host beside other proxies, of the example, and of the parts. `python -m benchmarks`.

What stands on what:

    processes  servers as processes of their own, pinned to cores, and what the kernel says of them
    load       what a client sends, and what sends it: wrk, and `steady` for a constant rate
    upstream   the provider behind every proxy
    peers      the proxies: our host, Envoy, nginx, HAProxy
    bench      what a run was asked for, and rounds in which all peers take turns
    report     tables, and their places in the documentation
    chart      bars
    machine, router, latency, memory, shortener, discovery, watchers, tasks
               the parts, each of which measures one thing
"""
