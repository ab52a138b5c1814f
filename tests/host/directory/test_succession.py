"""A plugin takes the place of who was at its address before under its name, and of nobody else."""

from __future__ import annotations

import pytest

from cpg_trio.host.access.identity import Identities
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.succession import Succession

HERE = "http://10.0.0.1:8082"


class Setting:
    def __init__(self) -> None:
        self.identities = Identities(clock=lambda: 0.0)
        self.registry = Registry()
        self.succession = Succession(self.identities, self.registry)

    def add(
        self,
        base_url: str = HERE,
        *,
        name: str = "storage-plugin",
        service_type: str = "storage",
        calls_from: str = "10.0.0.1",
        leads_to: str = "10.0.0.1",
    ) -> str:
        identity, _ = self.identities.issue(name, address=calls_from)
        metadata = {"base_url": base_url} if base_url else {}
        self.registry.register(
            identity.runtime_id, service_type, "1.0.0", "/s/", metadata, addresses=(leads_to,)
        )
        return identity.runtime_id


def test_who_comes_later_under_the_same_name_at_the_same_address_succeeds_all_before_it() -> None:
    s = Setting()
    first, second, third = s.add(), s.add(), s.add("http://10.0.0.1:8082/")
    assert s.succession.predecessors(third) == {first, second}
    assert s.succession.predecessors(first) == set()
    assert [s.succession.is_succeeded(each) for each in (first, second, third)] == [True, True, False]


@pytest.mark.parametrize(
    "other",
    [
        {"name": "storage2-plugin"},
        {"service_type": "logger"},
        {"base_url": "http://10.0.0.1:8083"},
        {"base_url": "https://10.0.0.1:8082"},
        {"base_url": "http://10.0.0.2:8082"},
        {"base_url": f"{HERE}/two"},
        {"base_url": ""},
        {"base_url": "none"},
        {"calls_from": "10.0.0.2"},  # a replica behind the same address
        {"leads_to": "10.0.0.2"},  # the name leads elsewhere by now
    ],
)
def test_who_differs_in_name_service_or_address_succeeds_nobody(other: dict[str, str]) -> None:
    s = Setting()
    first, second = s.add(), s.add(**other)
    assert s.succession.predecessors(second) == set()
    assert not s.succession.is_succeeded(first)


def test_who_registers_anew_is_the_one_that_is_there() -> None:
    s = Setting()
    first, second = s.add(), s.add()
    s.registry.register(first, "storage", "1.0.0", "/s/", {"base_url": HERE}, addresses=("10.0.0.1",))
    assert s.succession.predecessors(first) == {second}
    assert not s.succession.is_succeeded(first)


def test_who_gave_no_url_is_at_no_address() -> None:
    s = Setting()
    first, second = s.add(""), s.add("")
    assert s.succession.predecessors(second) == set()
    assert not s.succession.is_succeeded(first)
