"""The router for callers in this process: an ASGI application that routes a call as the relay does."""

from __future__ import annotations

import trio

from cpg_trio.asgi import Receive, ResponseAbortedError, Scope, Send, send_text
from cpg_trio.host.routing.router import Router
from cpg_trio.http import AsgiExchange, Pool, RelayCall, RequestRefusedError
from cpg_trio.logs import current_source


class RouterApp:
    """See the module. It runs in its caller's task: a call is one chain of functions, up to its provider."""

    def __init__(self, router: Router, pool: Pool) -> None:
        self._router = router
        self._pool = pool
        self.claims = router.claims
        self._source = current_source.get()  # the host, which makes this

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call."""
        token = current_source.set(self._source)
        try:
            await self._route(scope, receive, send)
        finally:
            current_source.reset(token)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = AsgiExchange(scope, receive, send)
        try:
            forward = self._router.admit(exchange)
        except RequestRefusedError as refused:
            await trio.lowlevel.checkpoint()
            fields = [*refused.fields, (b"x-request-id", exchange.request_id)]
            await send_text(send, refused.status, f"{refused.text}\n", fields)
            return
        if not forward.is_here:
            await exchange.prepare()
            await RelayCall(exchange, forward, self._pool).run()
            if exchange.aborted:
                raise ResponseAbortedError(forward.call.failure)
        else:
            receive = receive if exchange.most_bytes is None else exchange.receive
            await forward.answer(scope, receive, send)
