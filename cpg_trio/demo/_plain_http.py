"""Middleware that offers methods as plain HTTP: query parameters, answers in flat JSON, errors in text.

It is for curl and for callers that do not speak Connect. A request with the content type of Connect or gRPC
passes unchanged. Any other request is translated to a Connect call, so that both reach one implementation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self
from urllib.parse import parse_qsl

import attrs
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.message_factory import GetMessageClass

from cpg_trio.asgi import App, Message, Receive, Scope, Send, header, send_response, send_text
from cpg_trio.plugin import Middleware

_RPC_TYPES = (b"application/proto", b"application/json", b"application/connect+", b"application/grpc")
_OK = 200
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` would make one for each answer


@attrs.frozen
class Form:
    """How a method answers plain HTTP."""

    required: tuple[str, ...] = ()
    """Parameters that a request must have."""
    missing: str = ""
    """The text of the 400 for a request without one of them."""
    failure: str = "{message}"
    """The text of an error that is not the caller's fault; `{message}` is the message of the error."""
    not_found: str = "{message}"
    """The text of a 404."""
    post_only: bool = False


def plain_http(service: ServiceDescriptor, forms: Mapping[str, Form]) -> Middleware:
    """Return middleware for the methods of a service; `forms` are by method name."""
    methods = {
        f"/{service.full_name}/{name}": _Method.of(service.methods_by_name[name], form)
        for name, form in forms.items()
    }

    def middleware(app: App) -> App:
        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            method = methods.get(scope["path"])
            if method is None or (header(scope, b"content-type") or b"").startswith(_RPC_TYPES):
                await app(scope, receive, send)
            else:
                await _answer(app, method, scope, receive, send)

        return dispatch

    return middleware


@attrs.frozen
class _Method:
    """A method. Every field of its request is a string."""

    form: Form
    request: type[ProtobufMessage]
    parameters: tuple[str, ...]
    answer: type[ProtobufMessage]
    fields: tuple[str, ...]
    """Of the answer."""

    @classmethod
    def of(cls, method: MethodDescriptor, form: Form) -> Self:
        asked, answered = method.input_type, method.output_type
        return cls(
            form,
            GetMessageClass(asked),
            tuple(field.name for field in asked.fields),
            GetMessageClass(answered),
            tuple(field.name for field in answered.fields),
        )

    def encode(self, query: Mapping[str, str]) -> bytes:
        """Return the serialized request of a query."""
        return self.request(**{k: query[k] for k in self.parameters if k in query}).SerializeToString()

    def flat_json(self, content: bytes) -> bytes:
        """Return an answer as JSON with the names of the .proto file."""
        answer = self.answer.FromString(content)
        return _to_json({k: getattr(answer, k) for k in self.fields}).encode()


async def _answer(app: App, method: _Method, scope: Scope, receive: Receive, send: Send) -> None:
    form = method.form
    if form.post_only and scope["method"] != "POST":
        await send_text(send, 405, "Method not allowed\n")
        return
    try:
        query = dict(parse_qsl(scope["query_string"].decode(), errors="strict"))
    except ValueError:
        await send_text(send, 400, "The query is not UTF-8\n")
        return
    if not all(query.get(name) for name in form.required):
        await send_text(send, 400, f"{form.missing}\n")
        return
    status, answer = await _call(app, scope, receive, method.encode(query))
    if status == _OK:
        await send_response(send, _OK, method.flat_json(answer), [(b"content-type", b"application/json")])
    else:
        text = {400: "{message}", 404: form.not_found}.get(status, form.failure)
        await send_text(send, status, text.format(message=json.loads(answer).get("message", "")) + "\n")


async def _call(app: App, scope: Scope, receive: Receive, body: bytes) -> tuple[int, bytes]:
    """Make the Connect call; return its status and its body: a serialized message, or an error in JSON."""
    # The caller's headers describe its own request, such as the length of a body that is ignored.
    inner = {**scope, "method": "POST", "headers": [(b"content-type", b"application/proto")]}
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0
    answer = b""

    async def receive_call() -> Message:
        return pending.pop() if pending else await receive()

    async def collect(message: Message) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    await app(inner, receive_call, collect)
    return status, answer
