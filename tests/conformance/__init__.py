"""The official Connect conformance suite, run against a server and a client that are made with this project.

Nothing of the suite is here: its runner and its protos are somewhere on the machine, and are named. See
`__main__`, and docs/reference/conformance.md.
"""
