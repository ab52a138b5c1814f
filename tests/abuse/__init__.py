"""Hostile clients against real processes: what they may cost a host, a plugin, and everybody else.

Two questions, one file each:

    test_memory     do a host and a public plugin of 192 MiB each outlive the worst requests, and serve on
    test_fairness   does a well-behaved plugin keep its calls while one client takes all that it can get

What stands on what:

    confinement  a process that has so much memory, and what it has used of it
    victims      what can be attacked: the public plugin, and a host that resolves some names slowly
    hostile      a client that says anything, from any address of this machine
    floods       the worst requests, for test_memory
    hoards       what one client can take and keep, for test_fairness
    attacker     the process that makes them
    customer     the well-behaved plugin, which counts which of its calls succeed
    siege        all of them together, for a block

Each attack is bounded in time and in connections, and stays on loopback. `nox -s abuse` runs each for a
minute, `pytest tests/abuse` for ABUSE_SECONDS (5). Not a part of the default tests.
"""
