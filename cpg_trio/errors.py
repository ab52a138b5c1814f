"""The base of the errors of this package. `docs/reference/errors.md` has all, and whose fault each is."""

from __future__ import annotations


class CpgTrioError(Exception):
    """The base of the errors that are raised to users of this package.

    Beside it stand Python's own for mistakes in a program (TypeError, ValueError, RuntimeError), and
    ConnectError, which is connectrpc's: methods of a service raise it. What a client raises for a call that
    has failed is a CallError, which is both.
    """
