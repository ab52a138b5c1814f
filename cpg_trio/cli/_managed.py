"""What the commands about the plugins that a host runs have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from cpg_trio.cli._actions import confirm
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._errors import CommandError
from cpg_trio.cli._output import Output, show_json, since, until
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

_WORDS = {
    number: name.removeprefix("REPLICA_PHASE_").lower().replace("_", " ")
    for name, number in pb.ReplicaPhase.items()
}


def managed_names(_context: object) -> Iterable[tuple[str, str]]:
    """Return the plugins that the host runs for the completion of a shell; none if there is no host."""
    answer = call_admin(HERE, lambda host: host.list_managed_plugins(pb.ListManagedPluginsRequest()))
    return [(each.name, each.reason) for each in answer.plugins]


ManagedName = Annotated[
    str,
    Parameter(
        help="A plugin that the host runs: its name in the platform file.",
        name="plugin",
        completer=managed_names,
        show=True,
    ),
]


async def managed_plugin(host: AdminServiceClient, name: str) -> pb.ManagedPlugin:
    """Return a plugin that the host runs. Raises: CommandError."""
    answer = await host.list_managed_plugins(pb.ListManagedPluginsRequest(plugin=name))
    if len(answer.plugins) != 1:
        raise CommandError(f"the host runs no plugin {name!r}")
    return answer.plugins[0]


async def confirmed_managed(
    host: AdminServiceClient, name: str, question: str, *, yes: bool
) -> pb.ManagedPlugin:
    """Return a plugin that the host runs, once somebody has confirmed it. Raises: CommandError."""
    plugin = await managed_plugin(host, name)
    if not yes:
        confirm(f"{question} {plugin.name} ({standing(plugin)})?")
    return plugin


def phase_word(phase: pb.ReplicaPhase) -> str:
    """Return the word of a phase: `backing off`."""
    return _WORDS.get(phase, f"phase {phase}")


def replica_text(replica: pb.Replica) -> str:
    """Return what a replica is doing, beside its state: where it runs, how it ended, when it starts again."""
    again = f"again in {until(replica.again_at)}" if replica.HasField("again_at") else ""
    loop = f"crash loop, {replica.failures} times in a row" if replica.looping else ""
    return "; ".join(filter(None, (replica.where, replica.why, loop, again)))


def standing(plugin: pb.ManagedPlugin) -> str:
    """Return how its replicas are, in words: `ready for 3 h, pid 4711`, `1 of 2 replicas ready`."""
    if len(plugin.replicas) == 1:
        replica = plugin.replicas[0]
        text = replica_text(replica)
        return f"{phase_word(replica.phase)} for {since(replica.since)}{f', {text}' if text else ''}"
    ready = sum(each.phase == pb.REPLICA_PHASE_READY for each in plugin.replicas)
    return f"{ready} of {plugin.wanted} replicas ready"


Answer = TypeVar("Answer", pb.ReplacePluginResponse, pb.RestartPluginResponse)


def start_anew(
    options: AdminOptions,
    name: str,
    question: str,
    act: Callable[[AdminServiceClient, str], Awaitable[Answer]],
    *,
    yes: bool,
    json: bool,
) -> int:
    """Have the host start a plugin anew in some way, once somebody has confirmed it, and show how it is then.

    `act` is called with the plugin's name on its platform.
    """

    async def ask(host: AdminServiceClient) -> Answer:
        return await act(host, (await confirmed_managed(host, name, question, yes=yes)).name)

    answer = call_admin(options, ask)
    show_json(answer) if json else show_managed(answer.plugin, Output())
    return 0


def show_managed(plugin: pb.ManagedPlugin, out: Output) -> None:
    """Write how a plugin is after something was done with it."""
    out.line(f"{plugin.name}: {standing(plugin)}")
