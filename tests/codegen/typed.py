"""A program: generated code, and a plugin that uses it, pass strict checks of types by mypy and by pyright.

The plugin says with `assert_type` what the types are, so that a checker which took anything would not pass.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cpg_trio import codegen
from cpg_trio.codegen.project import Project

CORPUS = Path(__file__).parent / "corpus"
PLUGIN = """
from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Literal, assert_type

from google.protobuf.empty_pb2 import Empty
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer

from cpg_trio import Plugin, run
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest, LogResponse
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient
from cpg_trio.rpc import Context, ResponseStream
from made.here.common.types_pb2 import Money, Nested
from made.here.kinds_pb2 import Colour, Kinds
from made.here.shop.v1.items_pb2 import Item
from made.here.shop.v1.shop_trio import ShopClient, ShopService


class Shop(ShopService):
    async def buy(self, request: Item.Choice.Size, ctx: Context, /) -> Money:
        assert_type(request.millimetres, int)
        return Money(cents=3)

    async def watch(self, request: Empty, ctx: Context, /) -> AsyncIterator[Item]:
        yield Item(name="a", sizes={"small": Item.Choice.Size(millimetres=1)})

    async def fill(self, requests: AsyncIterator[Item], ctx: Context, /) -> Nested.Deep.Deeper:
        async for request in requests:
            assert_type(request, Item)
            assert_type(request.sizes, MessageMap[str, Item.Choice.Size])
        return Nested.Deep.Deeper(money=[Money(cents=1)])

    async def talk(self, requests: AsyncIterator[Item], ctx: Context, /) -> AsyncIterator[AnyMessage]:
        async for _ in requests:
            yield AnyMessage()


plugin = Plugin("shop-plugin", version="1.0.0")
shop = plugin.require("shop").client(ShopClient)
logger = plugin.require("logger", version=">=1.0,<2").client(LoggerClient)
plugin.provide("shop", Shop(), public=True)


async def items() -> AsyncIterator[Item]:
    yield Item()


async def call() -> None:
    assert_type(shop, ShopClient)
    assert_type(await logger.log(LogRequest(message="a"), timeout_s=1.0), LogResponse)
    assert_type(await shop.buy(Item.Choice.Size()), Money)
    deeper = await shop.fill(items())
    assert_type(deeper.money, RepeatedCompositeFieldContainer[Money])
    watched = shop.watch(Empty(), timeout_s=3)
    assert_type(watched, AbstractAsyncContextManager[ResponseStream[Item]])
    async with watched as stream:
        async for item in stream:
            assert_type(item, Item)
    async with shop.talk(items()) as answers:
        async for answer in answers:
            assert_type(answer, AnyMessage)


def kinds(message: Kinds) -> Colour:
    assert_type(message.colour, Colour)
    assert_type(Colour.COLOUR_RED, Colour)
    assert_type(Colour.Name(message.colour), str)
    assert_type(message.WhichOneof("one"), Literal["text", "number"] | None)
    assert_type(message.WhichOneof("other"), Literal["flag"] | None)
    assert_type(message.HasField("maybe"), bool)
    return Colour.Value("COLOUR_RED")


if __name__ == "__main__":
    sys.exit(run(plugin.serve))
"""
AUTHOR = """\
from __future__ import annotations

from typing import assert_type

import trio

from cpg_trio import (
    CallPolicy,
    Caller,
    Code,
    ConnectError,
    Context,
    DependencyState,
    HealthState,
    Interceptor,
    Plugin,
    Retry,
    connect,
)
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest, LogResponse
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient, LoggerService
from cpg_trio.testing import StartedPlugin, check_plugin, open_host


class Lines(LoggerService):
    def __init__(self) -> None:
        self.lines: list[str] = []

    async def log(self, request: LogRequest, ctx: Context, /) -> LogResponse:
        assert_type(ctx.caller, Caller | None)
        if not request.message:
            raise ConnectError(Code.INVALID_ARGUMENT, "say something")
        self.lines.append(request.message)
        return LogResponse(success=True)


def made(interceptors: tuple[Interceptor, ...] = ()) -> Plugin:
    plugin = Plugin("author-plugin", version="1.0.0")
    log = plugin.require("log", version=">=1,<2", policy=CallPolicy(retry=Retry(attempts=3)))
    client = plugin.client("logger", LoggerClient, interceptors=interceptors)
    assert_type(client, LoggerClient)

    @plugin.task
    async def work() -> None:
        async for state in log.changes():
            assert_type(state, DependencyState)
            health = HealthState.HEALTHY if state.available else HealthState.DEGRADED
            plugin.set_health(health, state.reason)
            assert_type(await client.log(LogRequest(message=state.reason)), LogResponse)

    @plugin.task(name="named")
    async def named() -> None:
        await work()


    return plugin


async def test_it() -> None:
    async with open_host() as host:
        started = await host.start(made())
        assert_type(started, StartedPlugin)
        assert_type(started.health, HealthState | None)
        await started.until(HealthState.HEALTHY)
        await host.fake("logger", Lines())
        client = await host.client("logger", LoggerClient, caller="somebody")
        assert_type(client, LoggerClient)
        assert_type(await client.log(LogRequest()), LogResponse)


def test_its_paces() -> None:
    check_plugin(made, {"logger": Lines()})


async def script() -> None:
    async with connect("http://127.0.0.1:8080", name="script") as session:
        client = session.client("logger", LoggerClient)
        assert_type(client, LoggerClient)
        assert_type((await client.log(LogRequest(message="a"))).success, bool)


if __name__ == "__main__":
    trio.run(script)
"""
WRONG = """
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient
from made.here.common.types_pb2 import Money
from made.here.kinds_pb2 import Colour, Kinds


async def call(logger: LoggerClient) -> None:
    await logger.log(Money())
    await logger.log(LogRequest(), timeout="1 s")
    LogRequest(text="a")
    Kinds().HasField("colour")
    Kinds(colour=1)
    Colour(1)
"""


def main() -> int:
    """Generate, and check; return 1 if a checker found something, or did not find what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        project = Project(CORPUS, top / "made/here", "made.here")
        project.write(project.generate())
        (top / "made/__init__.py").touch()
        for file in codegen.generate(well_known_protos()).file:
            path = top / "made/well_known" / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content)
        (top / "plugin.py").write_text(PLUGIN)
        (top / "author.py").write_text(AUTHOR)
        mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file="]
        pyright = [str(Path(sys.executable).with_name("basedpyright")), "--pythonpath", sys.executable]
        (top / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        passed = [_run(top, *mypy, "made", "plugin.py", "author.py"), _run(top, *pyright)]
        (top / "wrong.py").write_text(WRONG)
        found = [_count(top, *mypy, "wrong.py"), _count(top, *pyright, "wrong.py")]
    lines = WRONG.count("\n    ")
    sys.stdout.write(f"of {lines} wrong lines, mypy found {found[0]}, and pyright {found[1]}\n")
    return int(passed != [0, 0] or found != [lines, lines])


def well_known_protos() -> CodeGeneratorRequest:
    """Return a request for code of all well-known protos that protobuf ships, which nobody else needs."""
    folder = Path(str(grpc_tools.__file__)).parent / "_proto"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as read:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={read.name}", *names], check=True)
        files = FileDescriptorSet.FromString(read.read()).file
    return CodeGeneratorRequest(proto_file=files, file_to_generate=names, parameter="package=made.well_known")


def _run(folder: Path, *command: str) -> int:
    return subprocess.run(command, cwd=folder, check=False).returncode


def _count(folder: Path, *command: str) -> int:
    """Return in how many lines of `wrong.py` a checker finds something."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    return len(
        {line.split(":")[1] for line in done.stdout.splitlines() if "wrong.py:" in line and "error" in line}
    )


if __name__ == "__main__":
    sys.exit(main())
