"""The router for callers in this process: an ASGI application that routes a call as the relay does."""

from __future__ import annotations

import trio

from cpg_trio.asgi import Receive, ResponseAbortedError, Scope, Send, send_text
from cpg_trio.host.routing.router import Router
from cpg_trio.host.routing.task_call import TaskCall
from cpg_trio.http import Pool
from cpg_trio.http.relay import RelayCall, RequestRefusedError
from cpg_trio.http.server.asgi_exchange import AsgiExchange
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
        exchange = AsgiExchange(scope, receive, send)
        token = current_source.set(self._source)
        try:
            forward = self._router.admit(exchange)
            if forward.task is not None:
                receive = receive if exchange.most_bytes is None else exchange.receive
                await TaskCall(forward, forward.task).run(scope, receive, send)
                return
            await exchange.prepare()
            await RelayCall(exchange, forward, self._pool).run()
            if exchange.aborted:
                raise ResponseAbortedError(forward.call.failure)
        except RequestRefusedError as refused:
            await trio.lowlevel.checkpoint()
            fields = [*refused.fields, (b"x-request-id", exchange.request_id)]
            await send_text(send, refused.status, f"{refused.text}\n", fields)
        finally:
            current_source.reset(token)
