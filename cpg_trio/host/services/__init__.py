"""The RPC services of the host, and the same as a websocket."""
