"""The fault suite: real processes, real faults, and what must be so again within a lease and a second.

What stands on what:

    observer     what the host says to anybody who asks
    writer       a client that shortens URLs all the time, and keeps what was acknowledged
    trial        the URL shortener, both of them, and the check that follows each fault
    proxy        a way to the host that can go dead
    fleet        replicas of a service and its consumers, in one process
    cutter       a way to a server that cuts connections
    worker       a replica whose executions outlive it
    blocker      a plugin whose handler holds up its event loop
    crowd        many plugins in one process
    glass_host   a host that tells what it holds
    platforms    platforms that `cpg-trio up` runs, and what is left of them
    shimmed      a process whose clock and whose resolver are what a test makes of them

Run by `nox -s chaos` or `pytest tests/chaos`, and not with the other tests: it is about real time.
"""
