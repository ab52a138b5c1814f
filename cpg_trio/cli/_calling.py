"""What the command `call` does: one call of any method of any plugin, as an identity of its own.

    handshake ─▶ discovery ─▶ descriptors, from the provider or a file ─▶ the call, through the host ─▶ leave

Standard output has the answers, one JSON document a line, and nothing else. Exit status: 0; 1 if the host or
the provider does not answer as wished; 2 for bad input; 128 and the signal's number when a signal ended it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from cpg_trio import wire
from cpg_trio._human import duration
from cpg_trio._lines import one_line, printable_json
from cpg_trio._nursery import open_plain_nursery
from cpg_trio._reload import reason
from cpg_trio.call_context import REQUEST_ID, TRACEPARENT, new_request_id
from cpg_trio.cli._admin import HERE, call_admin
from cpg_trio.cli._errors import CommandError, UsageError
from cpg_trio.cli._json_documents import InvalidJsonError, documents_in
from cpg_trio.http import StartError, TlsConfig
from cpg_trio.http.certificates import tls_from_environment
from cpg_trio.plugin import (
    DiscoveredProvider,
    HostSession,
    RefusedError,
    SessionConfig,
    connect,
    parse_host_urls,
)
from cpg_trio.process import secret_from_environment
from cpg_trio.protos.cpgtrio.admin.v1.admin_pb2 import GetStatusRequest, ListServicesRequest
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from cpg_trio.rpc.dynamic import DescriptionError, Descriptions, DynamicClient
from cpg_trio.rpc.proto_text import definitions, shape, signature
from cpg_trio.rpc.reflection_client import descriptors_of

_STDIN = "-"
_READ_BYTES = 64 * 1024
_MOST_ANSWER_BYTES = 256 * 1024 * 1024
_MOST_OF_ERROR = 4096  # characters
_SAMPLED = "01"  # a call by hand is worth a trace


@attrs.frozen(kw_only=True)
class CallCommand:
    """What is to be called, and how."""

    service_type: str
    method: str = ""
    """A short or full name; empty lists the methods."""
    message: str | None = None
    """JSON; `@file`; `-` for standard input. None is an empty message, or standard input for a stream."""
    host_url: str
    self_id: str
    enrolment_token: str = attrs.field(default="", repr=False)
    tls: TlsConfig = attrs.field(factory=TlsConfig)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    timeout_s: float | None = None
    verbose: bool = False
    describe: bool = False
    descriptor_set: Path | None = None
    """A file with a FileDescriptorSet, in place of the provider's reflection."""


def call_of(environment: Mapping[str, str], *, host_url: str, **options: Any) -> CallCommand:
    """Return a command with TLS and the enrolment token from the environment. Raises: CommandError."""
    try:
        parse_host_urls(host_url)
    except ValueError as error:
        raise UsageError(f"the host's URL (--host, HOST_URL): {error}") from None
    try:
        wire.validate_self_id(options["self_id"])
        wire.validate_service_type(options["service_type"])
        return CallCommand(
            host_url=host_url.rstrip("/"),
            enrolment_token=secret_from_environment("ENROLMENT_TOKEN", environment),
            tls=tls_from_environment(environment),
            **options,
        )
    except (StartError, wire.InvalidError) as error:
        raise UsageError(str(error)) from None


def run(command: CallCommand) -> int:
    """Run the command; return its exit status. Raises: CommandError for bad input."""
    try:
        return trio.run(_run, command)
    except ConnectError as error:
        said = " ".join(error.message.split())  # by the plugin, perhaps
        hint = _meant(command) if isinstance(error, UnknownServiceError) else ""
        print(f"{error.code.value}: {one_line(said, _MOST_OF_ERROR)}{hint}", file=sys.stderr)
        return 1
    except NoHostError as error:
        raise CommandError(f"no host: {error} (--host or HOST_URL says where it is)") from None
    except (DescriptionError, InvalidJsonError, StartError) as error:
        raise UsageError(str(error)) from None


def _meant(command: CallCommand) -> str:
    """Return which service may be meant, in words, if the host is on this machine; plugins are not told."""
    called = parse_host_urls(command.host_url)

    async def there(host: AdminServiceClient) -> Sequence[str]:
        status = await host.get_status(GetStatusRequest())
        ports = [{urlsplit(url).port for url in urls} for urls in (called, status.host.urls)]
        if not ports[0] & ports[1]:
            return ()  # of another host
        services = (await host.list_services(ListServicesRequest())).services
        return [each.service_type for each in services if each.providers]

    try:
        types = call_admin(HERE, there, {**os.environ, "HOST_URL": command.host_url})
    except (CommandError, ConnectError):
        return ""
    near = get_close_matches(command.service_type, types, n=1)
    return f"; {near[0]} is there: is that meant?" if near else ""


async def perform(command: CallCommand) -> None:
    """Describe or call. Raises: ConnectError; DescriptionError; InvalidJsonError; StartError; NoHostError."""
    await _Call(command).run()


async def _run(command: CallCommand) -> int:
    signalled: list[int] = []
    async with open_plain_nursery() as nursery:
        await nursery.start(_note_signal, signalled, nursery.cancel_scope)
        await perform(command)
        nursery.cancel_scope.cancel()
    return 128 + signalled[0] if signalled else 0


async def _note_signal(
    signalled: list[int], scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """End the scope at the first signal."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            signalled.append(number)
            scope.cancel()


class NoHostError(Exception):
    """There is no host that answers."""


class UnknownServiceError(ConnectError):
    """Nobody provides the service."""


@asynccontextmanager
async def _reaching_host(
    session: AbstractAsyncContextManager[HostSession],
) -> AsyncIterator[HostSession]:
    """Enter a session. Raises: NoHostError if the host does not answer; ConnectError if it refuses."""
    async with AsyncExitStack() as stack:
        try:
            entered = await stack.enter_async_context(session)
        except ConnectError as error:
            if error.code is Code.UNAVAILABLE:
                raise NoHostError(error.message) from error
            raise
        except RefusedError as error:
            raise (error.__cause__ if isinstance(error.__cause__, ConnectError) else error) from None
        yield entered


class _Call:
    """A command that runs."""

    def __init__(self, command: CallCommand) -> None:
        self._command = command
        self._headers = {
            REQUEST_ID: new_request_id(),
            TRACEPARENT: f"00-{_random_id(16)}-{_random_id(8)}-{_SAMPLED}",
            **command.headers,
        }

    async def run(self) -> None:
        command = self._command
        files = None if command.descriptor_set is None else _files_in(command.descriptor_set)
        config = SessionConfig(enrolment_token=command.enrolment_token, tls=command.tls)
        session_with_host = connect(
            command.host_url, command.self_id, requires=[command.service_type], config=config
        )
        async with _reaching_host(session_with_host) as session:
            provider = await self._discovered(session)
            described = Descriptions(await self._reflected(provider) if files is None else files)
            if command.method and not command.describe:
                await self._call(provider, described, described.method(command.method))
            else:
                self._describe(provider, described)

    async def _discovered(self, session: HostSession) -> DiscoveredProvider:
        try:
            return await session.discover(self._command.service_type)
        except ConnectError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            raise UnknownServiceError(error.code, error.message) from None

    async def _reflected(self, provider: DiscoveredProvider) -> Sequence[FileDescriptorProto]:
        config = ClientConfig(timeout_s=self._command.timeout_s)
        try:
            return await descriptors_of(partial(provider.client, config=config))
        except ConnectError as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise
            raise ConnectError(
                error.code,
                f"{provider.id} does not describe its services: set REFLECTION=true there, or give"
                " --proto-descriptor FILE",
            ) from None

    # Describing

    def _describe(self, provider: DiscoveredProvider, described: Descriptions) -> None:
        if self._command.method:
            methods = [described.method(self._command.method)]
        else:
            methods = [method for service in described.services for method in service.methods]
        self._note(f"{self._command.service_type} of {_named(provider)}")
        if self._command.describe:
            print("\n".join(map(signature, methods)), definitions(methods), sep="\n\n")
            return
        for service in described.services:
            print(service.full_name)
            for method in service.methods:
                print(f"  {signature(method)}")
                print(f"      {shape(method.input_type)} -> {shape(method.output_type)}")

    # Calling

    async def _call(
        self, provider: DiscoveredProvider, described: Descriptions, method: MethodDescriptor
    ) -> None:
        began, code = trio.current_time(), ""
        config = ClientConfig(
            headers=self._headers,
            timeout_s=self._command.timeout_s,
            max_message_bytes=_MOST_ANSWER_BYTES,
        )
        client = provider.client(DynamicClient, config)
        try:
            async with (
                aclosing(self._requests(described, method)) as requests,
                client.call(method, requests) as responses,
            ):
                async for response in responses:
                    print(printable_json(described.json(response)), flush=True)
            code = "ok"
        except (ConnectError, trio.Cancelled) as error:
            code = error.code.value if isinstance(error, ConnectError) else Code.CANCELED.value
            raise
        finally:
            if code:  # not for bad input
                self._note(f"{code} in {duration(trio.current_time() - began)} by {_named(provider)}")
                self._note(f"request {self._headers[REQUEST_ID]}  trace {self._headers[TRACEPARENT][3:35]}")

    async def _requests(
        self, described: Descriptions, method: MethodDescriptor
    ) -> AsyncGenerator[Message, None]:
        """Yield the requests, as they come. Raises: InvalidJsonError; DescriptionError."""
        chunks = _chunks(self._command.message, is_stream=method.client_streaming)
        async with aclosing(chunks), aclosing(documents_in(chunks)) as all_:
            if method.client_streaming:
                async for document in all_:
                    yield described.message(document, method)
                return
            documents = [document async for document in all_]
        if len(documents) != 1:
            raise DescriptionError(f"{method.name} takes one message, and there are {len(documents)}")
        yield described.message(documents[0], method)

    def _note(self, text: str) -> None:
        if self._command.verbose:
            print(text, file=sys.stderr)


def _named(provider: DiscoveredProvider) -> str:
    return f"{provider.id} ({provider.version})"


def _random_id(count: int) -> str:
    return random.randbytes(count).hex()  # noqa: S311 - it is no secret


async def _chunks(message: str | None, *, is_stream: bool) -> AsyncGenerator[bytes, None]:
    """Yield the text of the messages, in pieces. Raises: StartError for a file that cannot be read."""
    if message is None and not is_stream:
        yield b"{}"
    elif message is None or message == _STDIN:
        # A thread, as a file or a terminal is not to be made non-blocking: other processes have it, too.
        while chunk := await trio.to_thread.run_sync(
            os.read, sys.stdin.fileno(), _READ_BYTES, abandon_on_cancel=True
        ):
            yield chunk
    elif message.startswith("@"):
        yield _content(Path(message[1:]))
    else:
        yield message.encode("utf-8", "surrogateescape")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {path}: {reason(error)}") from None


def _files_in(path: Path) -> Sequence[FileDescriptorProto]:
    """Return the files of a FileDescriptorSet. Raises: StartError."""
    try:
        files = FileDescriptorSet.FromString(_content(path)).file
    except DecodeError:
        files = FileDescriptorSet().file
    if not files:
        raise StartError(
            f"{path} is no FileDescriptorSet: `buf build -o FILE` makes one, and so does"
            " `protoc --include_imports -o FILE`"
        )
    return files
