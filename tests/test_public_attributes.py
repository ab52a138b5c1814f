"""The attributes of the classes that authors get: a new one is a decision, and is written here."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from typing import Any

import pytest

import cpg_trio
from cpg_trio import plugin, rpc, testing
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient

DEPENDENCY = {"available", "changes", "client", "degraded", "policy", "service_type", "statistics"}
DEPENDENCY |= {"wait_available"}

PUBLIC: Mapping[type[Any], AbstractSet[str]] = {
    cpg_trio.Plugin: {
        *("self_id", "provides", "services", "requires", "uses", "tasks"),
        *("provide", "require", "client", "capability", "task", "set_health", "serve"),
    },
    cpg_trio.Dependency: DEPENDENCY | {"required"},
    cpg_trio.HostDependency: DEPENDENCY,
    cpg_trio.DependencyState: {"available", "degraded", "providers", "reason"},
    cpg_trio.Provider: {"health", "id", "version"},
    cpg_trio.HostSession: {"client", "discover", "name", "require", "runtime_id"},
    plugin.DiscoveredProvider: {"client", "id", "version"},
    plugin.Capability: {"capability_type", "client", "min_version"},
    cpg_trio.PluginConfig: {
        *("bind", "host_url", "host_urls", "hostname", "local", "socket_dir", "enrolment_token"),
        *("accept_unsigned", "control_bind", "probe_bind", "metrics_bind", "heartbeat_s", "grace_s"),
        *("direct_calls", "reflection", "handshake_clients", "serve", "from_environment"),
    },
    cpg_trio.Context: {
        *("caller", "peer_names", "method", "http_method", "timeout_ms", "server_address", "client_address"),
        *("request_headers", "response_headers", "response_trailers"),
    },
    cpg_trio.Caller: {"id", "name"},
    cpg_trio.CallError: {"code", "details", "fault", "message"},
    cpg_trio.Host: {
        *("serve", "application", "local", "require", "client", "statistics", "calls", "audit"),
        *("add_plugin", "plugins", "shut_down_plugin", "revoke_identity", "enforce_policy"),
        *("revoke_grant", "revoke_grants", "grants_ended", "admin_addresses", "metrics_urls"),
        # What the rooms of the host, and its tests, share of it.
        *("admin", "call_table", "cluster", "health", "identities", "owners", "registry", "standing"),
        "watches",
    },
    rpc.Service: {"application", "rpcs", "service_name"},
    rpc.ServiceClient: {"service_name"},
    testing.MemoryHost: {
        *("host", "start", "fake", "client", "connect", "take", "stop", "until", "is_registered"),
        *("capture_calls", "capture_audit"),
    },
    testing.StartedPlugin: {
        *("plugin", "runtime_id", "health", "reason", "is_running", "until", "stop", "kill", "move"),
    },
}
OF_EXCEPTIONS = set(dir(Exception))


def attributes_of(of: type[Any], instance: object = None) -> set[str]:
    annotated = {name for base in of.__mro__ for name in vars(base).get("__annotations__", {})}
    names = {*dir(of), *annotated, *(vars(instance) if hasattr(instance, "__dict__") else ())}
    return {name for name in names if not name.startswith("_")} - (
        OF_EXCEPTIONS if issubclass(of, Exception) else set()
    )


@pytest.mark.parametrize("of", PUBLIC, ids=[each.__name__ for each in PUBLIC])
def test_a_class_has_the_public_attributes_that_were_decided_on(of: type[Any]) -> None:
    given = {cpg_trio.CallError: {"fault"}, testing.StartedPlugin: {"plugin"}}.get(of, set())
    if of is cpg_trio.Host:
        given = attributes_of(of, cpg_trio.Host())
    assert attributes_of(of) | given == PUBLIC[of]


def test_objects_have_no_others_than_their_classes() -> None:
    made = cpg_trio.Plugin("p", version="1.0.0")
    dependency, capability = made.require("echo"), made.capability("logger")
    host = cpg_trio.Host()
    error = cpg_trio.CallError(cpg_trio.Code.NOT_FOUND, "no", fault=cpg_trio.Fault.HANDLER)
    for each in (made, dependency, capability, host.require("echo"), error):
        assert attributes_of(type(each), each) == PUBLIC[type(each)]


def test_stubs_add_the_methods_of_the_service_and_nothing_else() -> None:
    methods = {"echo", "count", "sum", "http_chat"}
    assert attributes_of(EchoService) == PUBLIC[rpc.Service] | methods
    assert attributes_of(EchoServiceClient) == PUBLIC[rpc.ServiceClient] | methods
