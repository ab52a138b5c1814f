"""`PluginLifecycle`: plugins report their own health. Each report is a heartbeat."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio.host.access import AccessCheck, Identity, Kind, Peer, RefusedError
from cpg_trio.host.cluster import Forwarding
from cpg_trio.host.directory import Liveness, RegistrationPolicy, Registry, health_of
from cpg_trio.host.routing import DirectReports
from cpg_trio.host.services.edges import answering, authenticate_arrival
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginLifecycleClient, PluginLifecycleService
from cpg_trio.rpc import Code, Context

_log = logging.getLogger("cpg_trio.host")

_MAX_REASON_CHARACTERS = 256  # in the log
_FORWARD_S = 1.0  # for the answer of a plugin's owner: another report follows


class Lifecycle(PluginLifecycleService):
    """`PluginLifecycle`."""

    def __init__(
        self,
        access: AccessCheck,
        registry: Registry,
        liveness: Liveness,
        direct: DirectReports,
        policy: RegistrationPolicy,
        forget: Callable[[str], object],
        forwarding: Forwarding,
    ) -> None:
        """Take what it works on. `forget` is called with the runtime id of a plugin that leaves."""
        self._access = access
        self._registry = registry
        self._liveness = liveness
        self._direct = direct
        self._policy = policy
        self._forget = forget
        self._forwarding = forwarding

    async def report_health(
        self, request: pb.ReportHealthRequest, ctx: Context, /
    ) -> pb.ReportHealthResponse:
        """Note the caller's health, and that it is alive.

        Raises: ConnectError `invalid_argument` for an unknown state; `unauthenticated` for a plugin that has
        moved.
        """
        with answering(ctx):
            caller, arrival = authenticate_arrival(self._access, self._forwarding, ctx, Kind.HEALTH_REPORT)
            if self._forwarding.sends_elsewhere:
                ctx.response_headers[wire.ELSEWHERE_HEADER] = "true"
            if not self._forwarding.is_cut_off_from_owner(caller.runtime_id):
                forwarded = await self._forwarding.send(
                    *(ctx, arrival, caller.runtime_id, PluginLifecycleClient),
                    lambda owner, options: owner.report_health(request, **options),
                    timeout_s=_FORWARD_S,
                )
                if forwarded is not None:
                    return forwarded
            self._access.check_still_valid(caller)
            self._check_place(caller, arrival.peer)
            self._policy.enforce()  # for all plugins: some plugin reports every moment
            health = health_of(request)
            self._direct.take(caller, request.direct_calls)
            before = self._registry.health(caller.runtime_id)
            self._registry.report_health(caller.runtime_id, health)
        if self._registry.last_report(caller.runtime_id) != before:  # there may be no room for the reason
            name = pb.HealthState.Name(request.state).removeprefix("HEALTH_STATE_")
            reason = f": {one_line(health.reason, _MAX_REASON_CHARACTERS)}" if health.reason else ""
            _log.info("%s reports %s%s", caller.runtime_id, name, reason)
        self._liveness.beat(caller.runtime_id)
        if request.leaving and not self._registry.has_registered(caller.runtime_id):
            _log.info("%s has taken its leave", caller.runtime_id)
            self._forget(caller.runtime_id)
        ctx.response_headers[wire.HOST_ID_HEADER] = self._registry.id
        return pb.ReportHealthResponse()

    def _check_place(self, caller: Identity, peer: Peer) -> None:
        """Check that a plugin that does not answer probes is still where the host looks for it.

        If it was found at the address that it called from, and calls from another one, its name leads there
        by now, and it has to register to be found. One that comes through a balancer was found elsewhere.
        Raises: RefusedError `unauthenticated`, upon which the plugin shakes hands, and keeps its identity.
        """
        runtime_id = caller.runtime_id
        if not self._registry.has_lapsed(runtime_id) or peer.address in ("", caller.address):
            return
        if any(each.address == caller.address for each in self._registry.registrations(runtime_id)):
            raise RefusedError(
                Code.UNAUTHENTICATED,
                f"{runtime_id} does not answer at {caller.address}, and calls from {peer.address}:"
                " shake hands again",
            )
