"""The environment of a plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpg_trio.http import StartError
from cpg_trio.plugin import PluginConfig


@pytest.mark.parametrize(
    "environment",
    [
        {"PORT": "http"},
        {"PORT": "65536"},
        {"PORT": "-1"},
        {"PORT": "²"},
        {"HOST_URL": "localhost:8080"},
        {"CONTROL_PORT": "http"},
        {"CONTROL_BIND": "no address", "CONTROL_PORT": "1"},
        {"ACCEPT_UNSIGNED": "yes"},
        {"DIRECT_CALLS": "yes"},
        {"REFLECTION": "yes"},
        {"HANDSHAKE_CLIENTS": "yes"},
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(StartError, match=f"^{next(iter(environment))}"):
        PluginConfig.from_environment(8081, environment)


def test_an_empty_file_of_an_enrolment_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("\n")
    with pytest.raises(StartError, match=r"^ENROLMENT_TOKEN_FILE: .* is empty$"):
        PluginConfig.from_environment(8081, {"ENROLMENT_TOKEN_FILE": str(path)})


def test_the_environment_says_where_a_plugin_runs() -> None:
    environment = {
        "PORT": "9",
        "HOST_URL": "http://host:8080/",
        "HOSTNAME": "storage",
        "SOCKET_DIR": "/sockets",
    }
    assert PluginConfig.from_environment(8081, environment) == PluginConfig(
        bind=["[::]:9"], host_url="http://host:8080", hostname="storage", socket_dir=Path("/sockets")
    )
    assert PluginConfig.from_environment(8081, {}) == PluginConfig(bind=["[::]:8081"])


@pytest.mark.parametrize(
    "host_url",
    [
        "http://localhost:1",
        "http://LOCALHOST.:1",
        "http://127.0.0.1:1",
        "http://127.9.9.9:1",
        "https://[::1]:1",
    ],
)
def test_a_plugin_whose_host_is_on_loopback_listens_there_only(host_url: str) -> None:
    assert PluginConfig.from_environment(8081, {"HOST_URL": host_url}).bind == ["localhost:8081"]
    for elsewhere in ("0.0.0.0", "10.0.0.7"):
        environment = {"HOST_URL": host_url, "BIND": elsewhere}
        assert PluginConfig.from_environment(8081, environment).bind == [f"{elsewhere}:8081"]


def test_what_listens_on_loopback_is_not_called_by_a_name_that_is_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = {"HOST_URL": "http://localhost:8080"}
    for hostname in ("localhost", "127.0.0.1", "::1"):
        assert PluginConfig.from_environment(1, {**local, "HOSTNAME": hostname}).hostname == hostname
    assert not caplog.records
    assert PluginConfig.from_environment(1, {**local, "HOSTNAME": "machine"}).hostname == "localhost"
    assert "HOSTNAME=machine is not used" in caplog.text
    asked = {**local, "HOSTNAME": "machine", "BIND": "::"}
    assert PluginConfig.from_environment(1, asked).hostname == "machine"


def test_what_is_served_with_tls_is_served_wherever_its_name_is() -> None:
    environment = {"HOST_URL": "https://localhost:1", "HOSTNAME": "machine", "TLS_CERT": "c.pem"}
    config = PluginConfig.from_environment(1, environment)
    assert (config.bind, config.hostname) == (["[::]:1"], "machine")


def test_the_environment_says_where_the_control_services_are() -> None:
    def bind(**environment: str) -> object:
        return PluginConfig.from_environment(0, environment).control_bind

    assert bind() is None
    assert bind(CONTROL_PORT="9090") == ["localhost:9090"]
    assert bind(CONTROL_PORT="9090", CONTROL_BIND="0.0.0.0") == ["0.0.0.0:9090"]
    assert bind(CONTROL_PORT="9090", CONTROL_BIND="::1") == ["[::1]:9090"]


def test_what_an_unsigning_host_needs_is_said_in_the_environment() -> None:
    assert PluginConfig.from_environment(0, {"ACCEPT_UNSIGNED": "true"}).accept_unsigned
    assert not PluginConfig.from_environment(0, {"ACCEPT_UNSIGNED": "false"}).accept_unsigned


def test_services_are_described_where_the_environment_says_so() -> None:
    assert PluginConfig.from_environment(0, {"REFLECTION": "true"}).reflection
    assert PluginConfig.from_environment(0, {"HANDSHAKE_CLIENTS": "true"}).handshake_clients
    assert not PluginConfig.from_environment(0, {}).reflection
