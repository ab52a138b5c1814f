"""The version of this distribution, and the `server_version` that the handshake announces."""

__version__ = "0.2.0"
