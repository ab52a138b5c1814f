"""`ServiceRegistry`: what a registration was checked for holds after each wait, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
import trio

from cpg_trio.host.access.access_check import AccessCheck
from cpg_trio.host.access.audit import Action, Audit, AuditEvent
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.keys import Keys
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.directory.endpoint_validation import BaseUrls, EndpointValidator
from cpg_trio.host.directory.plugin_control import ControlClients
from cpg_trio.host.directory.registration_policy import RegistrationPolicy
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.saving import Undo
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.services.service_registry import RegistryService
from cpg_trio.http import Pool
from cpg_trio.rpc import AsgiTransport, application
from tests.host.calls import REGISTER, UNREGISTER, WireCaller
from tests.host.cluster.alone import no_forwarding

BODY = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/"}


class Registering(EndpointValidator):
    """A plugin that registers a service. `while_checked` and `while_saved` happen while the host waits."""

    def __init__(self) -> None:
        super().__init__(BaseUrls.ANY)
        self.identities, self.registry = Identities(Keys(["k" * 32])), Registry()
        self.plugin, token = self.identities.issue("p")
        self.headers = {"X-Plugin-Runtime-ID": self.plugin.runtime_id, "Authorization": f"Bearer {token}"}
        self.policy, self.audit = _Changing(), Audit()
        self.events: list[AuditEvent] = []
        self.audit.subscribe(self.events.append)
        self.while_checked: Callable[[Registering], object] = lambda _: None
        self.while_saved: Callable[[Registering], object] = lambda _: None
        access = AccessCheck(self.identities, policy=self.policy, audit=self.audit)
        service = RegistryService(
            access,
            self.registry,
            WatchHub(self.registry),
            RegistrationPolicy(access, self.identities, self.registry, self.policy, self.audit),
            self,
            Sockets(None, ControlClients(self.identities, self.registry, Pool())),
            self.audit,
            self._saved,
            no_forwarding(),
        )
        self._app = application([service])

    async def check_base_url(
        self, base_url: str, caller: Identity, key: str = "", *, asked_at: str = ""
    ) -> str:
        await trio.lowlevel.checkpoint()
        self.while_checked(self)
        return await super().check_base_url(base_url, caller, key, asked_at=asked_at)

    async def _saved(self, _: str, _undo: Undo) -> None:
        await trio.lowlevel.checkpoint()
        self.while_saved(self)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        transport = AsgiTransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
            return await WireCaller(http).post(path, dict(body), self.headers)

    def provides(self) -> bool:
        return bool(self.registry.providers("t"))


class _Changing(Policy):
    permits = True

    def may_provide(self, _plugin: Identity, _service_type: str, /) -> bool:
        return self.permits


def identity_ends(host: Registering) -> None:
    host.identities.revoke(host.plugin.runtime_id, "it misbehaves")
    host.registry.remove_plugin(host.plugin.runtime_id)


def policy_changes(host: Registering) -> None:
    host.policy.permits = False
    for registration in host.registry.registrations(host.plugin.runtime_id):
        host.registry.unregister(host.plugin.runtime_id, registration.id)


ENDINGS = [
    pytest.param(identity_ends, 401, "has ended (it misbehaves): shake hands again", id="identity"),
    pytest.param(policy_changes, 403, "p may not provide t", id="policy"),
]


@pytest.mark.parametrize(("ending", "status", "message"), ENDINGS)
@pytest.mark.parametrize("moment", ["while_checked", "while_saved"])
async def test_a_plugin_that_may_not_any_more_after_a_wait_has_not_registered(
    moment: str, ending: Callable[[Registering], object], status: int, message: str
) -> None:
    host = Registering()
    setattr(host, moment, ending)
    answer = await host.post(REGISTER, BODY)
    assert answer[0] == status
    assert message in answer[1]["message"]
    assert not host.provides()
    assert not any(event.allowed for event in host.events if event.action is Action.REGISTER)


async def test_nothing_is_looked_up_for_a_plugin_that_may_not_provide_a_service() -> None:
    host = Registering()
    host.policy.permits = False
    looked_up: list[Registering] = []
    host.while_checked = looked_up.append
    assert (await host.post(REGISTER, BODY))[0] == 403
    assert looked_up == []


async def test_a_registration_that_the_plugin_has_replaced_meanwhile_has_succeeded() -> None:
    host = Registering()
    host.while_saved = lambda it: it.registry.register(it.plugin.runtime_id, "t", "2.0.0", "/t/", {})
    assert (await host.post(REGISTER, BODY))[0] == 200
    assert [each.version for each in host.registry.providers("t")] == ["2.0.0"]


async def test_a_registration_of_another_plugin_is_as_unknown_as_one_that_never_was() -> None:
    host = Registering()
    other, _ = host.identities.issue("q")
    theirs = host.registry.register(other.runtime_id, "u", "1.0.0", "/u/", {})
    for registration_id in (theirs.id, "none"):
        answer = await host.post(UNREGISTER, {"registrationId": registration_id})
        assert (answer[0], answer[1]["code"]) == (404, "not_found")
    assert host.registry.providers("u")
