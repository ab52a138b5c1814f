"""The admin service: it hands each request on to the view, the events or the actions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import attrs

from cpg_trio._human import seconds_of
from cpg_trio.host.admin import managed_messages, messages
from cpg_trio.host.admin.actions import Actions
from cpg_trio.host.admin.actor import current_actor
from cpg_trio.host.admin.events import EventLog
from cpg_trio.host.admin.managed_actions import ManagedActions
from cpg_trio.host.admin.view import View
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminService
from cpg_trio.rpc import Context

_DEFAULT_GRACE_S = 30.0
_DEFAULT_LEVEL_S = 10 * 60.0


class AdminRpcs(AdminService):
    """`cpgtrio.admin.v1.AdminService`."""

    def __init__(self, view: View, events: EventLog, actions: Actions, managed: ManagedActions) -> None:
        self._view = view
        self._events = events
        self._actions = actions
        self._managed = managed

    async def get_status(self, request: pb.GetStatusRequest, _ctx: Context, /) -> pb.GetStatusResponse:
        """See `View.status`."""
        return self._view.status(request)

    async def list_plugins(self, request: pb.ListPluginsRequest, _ctx: Context, /) -> pb.ListPluginsResponse:
        """See `View.plugins`."""
        return self._view.plugins(request)

    async def get_plugin(self, request: pb.GetPluginRequest, _ctx: Context, /) -> pb.GetPluginResponse:
        """See `View.plugin`."""
        return self._view.plugin(request)

    async def list_services(
        self, request: pb.ListServicesRequest, _ctx: Context, /
    ) -> pb.ListServicesResponse:
        """See `View.services`."""
        return self._view.services(request)

    async def get_graph(self, request: pb.GetGraphRequest, _ctx: Context, /) -> pb.GetGraphResponse:
        """See `View.graph`."""
        return self._view.graph(request)

    async def list_calls(self, request: pb.ListCallsRequest, _ctx: Context, /) -> pb.ListCallsResponse:
        """See `View.calls`."""
        return self._view.calls(request)

    async def list_capabilities(
        self, request: pb.ListCapabilitiesRequest, _ctx: Context, /
    ) -> pb.ListCapabilitiesResponse:
        """See `View.capabilities`."""
        return self._view.capabilities(request)

    async def get_configuration(
        self, request: pb.GetConfigurationRequest, _ctx: Context, /
    ) -> pb.GetConfigurationResponse:
        """See `View.configuration`."""
        return self._view.configuration(request)

    async def watch_events(
        self, request: pb.WatchEventsRequest, _ctx: Context, /
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Yield the events that are kept, and with `follow` new ones until the host stops.

        Raises: ConnectError `resource_exhausted`.
        """
        with self._events.reading(request.after, request.plugin, request.kinds) as reader:
            async with aclosing(reader.batches(follow=request.follow)) as batches:
                async for events, missed in batches:
                    yield pb.WatchEventsResponse(events=map(messages.event, events), missed=missed)

    async def list_managed_plugins(
        self, request: pb.ListManagedPluginsRequest, _ctx: Context, /
    ) -> pb.ListManagedPluginsResponse:
        """See `View.managed`."""
        return self._view.managed(request)

    async def get_impact(self, request: pb.GetImpactRequest, _ctx: Context, /) -> pb.GetImpactResponse:
        """See `View.impact`."""
        return self._view.impact(request)

    async def get_plan(self, _request: pb.GetPlanRequest, _ctx: Context, /) -> pb.GetPlanResponse:
        """See `ManagedActions.plan`."""
        plan_id, plan = await self._managed.plan()
        return pb.GetPlanResponse(
            plan_id=plan_id,
            changes=map(managed_messages.change, plan.changes),
            unchanged=plan.unchanged,
            source=self._managed.source.name,
        )

    async def watch_logs(
        self, request: pb.WatchLogsRequest, _ctx: Context, /
    ) -> AsyncIterator[pb.WatchLogsResponse]:
        """Yield the lines of a plugin that are kept, and with `follow` new ones until the host stops.

        Raises: ConnectError `not_found`, `resource_exhausted`.
        """
        with self._view.reading_lines(request) as reader:
            async with aclosing(reader.batches(follow=request.follow)) as batches:
                async for lines, missed in batches:
                    yield pb.WatchLogsResponse(lines=map(managed_messages.line, lines), missed=missed)

    async def add_plugin(self, request: pb.AddPluginRequest, _ctx: Context, /) -> pb.AddPluginResponse:
        """See `ManagedActions.add`."""
        spec = await self._managed.add(request.plugin, reason=request.reason, actor=current_actor())
        return pb.AddPluginResponse(plugin=self._view.managed_of(spec))

    async def remove_plugin(
        self, request: pb.RemovePluginRequest, _ctx: Context, /
    ) -> pb.RemovePluginResponse:
        """See `ManagedActions.remove`."""
        impact = await self._managed.remove(
            request.plugin, force=request.force, reason=request.reason, actor=current_actor()
        )
        return pb.RemovePluginResponse(impact=managed_messages.impact(impact))

    async def replace_plugin(
        self, request: pb.ReplacePluginRequest, _ctx: Context, /
    ) -> pb.ReplacePluginResponse:
        """See `ManagedActions.replace`."""
        spec = await self._managed.replace(request.plugin, reason=request.reason, actor=current_actor())
        return pb.ReplacePluginResponse(plugin=self._view.managed_of(spec))

    async def restart_plugin(
        self, request: pb.RestartPluginRequest, _ctx: Context, /
    ) -> pb.RestartPluginResponse:
        """See `ManagedActions.restart`."""
        spec = await self._managed.restart(request.plugin, reason=request.reason, actor=current_actor())
        return pb.RestartPluginResponse(plugin=self._view.managed_of(spec))

    async def scale_plugin(self, request: pb.ScalePluginRequest, _ctx: Context, /) -> pb.ScalePluginResponse:
        """See `ManagedActions.scale`."""
        spec = await self._managed.scale(
            request.plugin, request.replicas, reason=request.reason, actor=current_actor()
        )
        return pb.ScalePluginResponse(plugin=self._view.managed_of(spec))

    async def apply_plan(self, request: pb.ApplyPlanRequest, _ctx: Context, /) -> pb.ApplyPlanResponse:
        """See `ManagedActions.apply`."""
        plan = await self._managed.apply(request.plan_id, reason=request.reason, actor=current_actor())
        return pb.ApplyPlanResponse(changes=map(managed_messages.change, plan.changes))

    async def drain_plugin(self, request: pb.DrainPluginRequest, _ctx: Context, /) -> pb.DrainPluginResponse:
        """See `Actions.drain`."""
        plugin, in_flight = await self._actions.drain(
            request.plugin, reason=request.reason, undo=request.undo, actor=current_actor()
        )
        return pb.DrainPluginResponse(plugin=self._view.message_of(plugin), calls_in_flight=in_flight)

    async def shut_down_plugin(
        self, request: pb.ShutDownPluginRequest, _ctx: Context, /
    ) -> pb.ShutDownPluginResponse:
        """See `Actions.shut_down`."""
        grace_s = seconds_of(request.grace) if request.HasField("grace") else _DEFAULT_GRACE_S
        plugin = await self._actions.shut_down(
            request.plugin, grace_s=grace_s, reason=request.reason, actor=current_actor()
        )
        return pb.ShutDownPluginResponse(runtime_id=plugin.runtime_id)

    async def revoke_plugin(
        self, request: pb.RevokePluginRequest, _ctx: Context, /
    ) -> pb.RevokePluginResponse:
        """See `Actions.revoke`."""
        plugin = await self._actions.revoke(request.plugin, reason=request.reason, actor=current_actor())
        return pb.RevokePluginResponse(runtime_id=plugin.runtime_id)

    async def revoke_grant(self, request: pb.RevokeGrantRequest, _ctx: Context, /) -> pb.RevokeGrantResponse:
        """See `Actions.revoke_grant`."""
        await self._actions.revoke_grant(request.grant_id, reason=request.reason, actor=current_actor())
        return pb.RevokeGrantResponse()

    async def reload(self, _request: pb.ReloadRequest, _ctx: Context, /) -> pb.ReloadResponse:
        """See `Actions.reload`."""
        files = await self._actions.reload(actor=current_actor())
        return pb.ReloadResponse(files=[pb.ReloadedFile(**attrs.asdict(file)) for file in files])

    async def set_log_level(self, request: pb.SetLogLevelRequest, _ctx: Context, /) -> pb.SetLogLevelResponse:
        """See `Actions.set_log_level`."""
        for_s = seconds_of(request.duration) if request.HasField("duration") else _DEFAULT_LEVEL_S
        holds_s = await self._actions.set_log_level(
            request.logger, request.level, for_s=for_s, actor=current_actor()
        )
        return pb.SetLogLevelResponse(until=messages.timestamp(time.time() + holds_s))
