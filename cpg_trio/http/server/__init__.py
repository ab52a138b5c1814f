"""The server side: listeners, connections, and the calls that come in on them."""
