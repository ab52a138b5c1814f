"""Looking for what nobody has thought of, for as long as one likes. Not a part of the test suite.

The property: what comes in is refused, or it means one thing to everybody who reads it. `targets` says it for
each kind of message, `parsers` for everything that is not HTTP, `costs` says what bytes may cost a host and a
plugin, and `__main__` has atheris (libFuzzer) come up with the messages.
"""
