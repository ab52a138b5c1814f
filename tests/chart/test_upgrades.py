"""What the chart renders, and what it refuses, by what is in the cluster."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.api_server import cluster_of
from tests.chart.helm import CHART, Object, containers_of, helm

NAME = "url-shortener"
POSTGRESQL = f"{NAME}-postgresql"
FILE = {"name": "STORAGE_PATH", "value": "/data/urls.sqlite3"}
DATABASE = {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": POSTGRESQL, "key": "url"}}}
THREE = "replicaCount=3"


def _object(version: str, kind: str, name: str, **more: Any) -> Object:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "shortener"},
        **more,
    }


def _deployment(variable: Object, moved: str = "", container: str = "storage") -> Object:
    """Return the Deployment of a release."""
    containers = [{"name": container, "env": [variable]}]
    spec = {"replicas": 4, "template": {"spec": {"containers": containers}}}
    item = _object("apps/v1", "Deployment", NAME, spec=spec)
    item["metadata"]["annotations"] = {"cpg-trio/data-moved": moved} if moved else {}
    return item


POD = _object("v1", "Pod", f"{NAME}-1")
STATEFUL_SET = _object("apps/v1", "StatefulSet", POSTGRESQL)
ON_A_FILE = [_deployment(FILE), POD]
ON_POSTGRESQL = [_deployment(DATABASE), POD, STATEFUL_SET]


class Upgrades:
    """Upgrades of a release, as far as to what they would apply."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _run(self, there: Sequence[Object], settings: tuple[str, ...]) -> tuple[str, str]:
        with cluster_of(there, self._folder) as config:
            ran = helm(
                *("template", NAME, str(CHART), "--namespace", "shortener", "--dry-run=server"),
                *("--is-upgrade", "--disable-openapi-validation", "--kubeconfig", str(config)),
                *(word for setting in settings for word in ("--set", setting)),
            )
        return ran.stdout if ran.returncode == 0 else "", ran.stderr

    def done(self, there: Sequence[Object], *settings: str) -> dict[str, Object]:
        """Return what an upgrade applies, by kind and name."""
        applied, said = self._run(there, settings)
        assert applied, said
        items = [item for item in yaml.safe_load_all(applied) if item]
        return {f"{item['kind']}/{item['metadata']['name']}": item for item in items}

    def refused(self, there: Sequence[Object], *settings: str) -> str:
        """Return why it is refused."""
        applied, said = self._run(there, settings)
        assert not applied
        return said


@pytest.fixture
def upgrades(tmp_path: Path) -> Upgrades:
    return Upgrades(tmp_path)


def _uses_database(applied: dict[str, Object]) -> bool:
    pod = applied[f"Deployment/{NAME}"]["spec"]["template"]["spec"]
    names = {entry["name"] for entry in containers_of(pod)["storage"]["env"]}
    assert len(names & {"DATABASE_URL", "STORAGE_PATH"}) == 1
    return "DATABASE_URL" in names


# From a file to a database


@pytest.mark.parametrize("setting", [THREE, "postgresql.enabled=true", "autoscaling.enabled=true"])
def test_a_file_is_not_left_behind_and_the_command_that_moves_it_is_named(
    upgrades: Upgrades, setting: str
) -> None:
    said = upgrades.refused(ON_A_FILE, setting)
    assert "The data of storage is in a file, /data/urls.sqlite3" in said
    assert f"RELEASE={NAME} NAMESPACE=shortener ./move-to-postgresql.sh" in said
    assert _uses_database(upgrades.done(ON_A_FILE, setting, "storage.abandonFile=true"))


@pytest.mark.parametrize(
    "setting", ["storage.databaseUrl=postgresql://h/d", "storage.databaseUrlSecret.name=mine"]
)
def test_to_a_database_that_is_named_nobody_is_told_to_run_what_moves_it_elsewhere(
    upgrades: Upgrades, setting: str
) -> None:
    for there in (ON_A_FILE, [_deployment(FILE, f"{NAME}-1"), POD]):
        said = upgrades.refused(there, setting)
        assert "Put it into the database yourself, and upgrade with storage.abandonFile=true" in said
        assert "move-to-postgresql" not in said


def test_of_a_plugin_that_names_no_command_the_data_is_moved_by_hand(
    upgrades: Upgrades, tmp_path: Path
) -> None:
    mine = "plugins[0].name=mine,plugins[0].port=8090,plugins[0].image.repository=r,test.enabled=false"
    data = ",".join(
        f"plugins[0].data.{key}={value}"
        for key, value in {"mountPath": "/d", "file": "d", "fileEnv": "FILE", "databaseEnv": "URL"}.items()
    )
    there = [_deployment({"name": "FILE", "value": "/d/d"}, container="mine"), POD]
    said = upgrades.refused(there, f"{mine},{data}", THREE)
    assert "The data of mine is in a file, /d/d" in said
    assert "Put it into the database yourself" in said


@pytest.mark.parametrize(
    ("moved", "pods", "is_done"),
    [
        (f"{NAME}-1", [POD], True),
        (f"{NAME}-0", [POD], False),
        (f"{NAME}-1", [], False),  # another pod has a file of its own
        ("true", [POD], False),
    ],
)
def test_a_move_is_one_of_the_file_that_is_there_now(
    upgrades: Upgrades, moved: str, pods: list[Object], *, is_done: bool
) -> None:
    there = [_deployment(FILE, moved), STATEFUL_SET, *pods]
    for settings in ((THREE,), ()):  # the database is there: it is taken in any case
        if is_done:
            assert _uses_database(upgrades.done(there, *settings))
        else:
            assert "Move it first" in upgrades.refused(there, *settings)


# From a database to a file


@pytest.mark.parametrize("settings", [(), ("replicaCount=1",), ("replicaCount=0",)])
def test_fewer_pods_keep_the_database(upgrades: Upgrades, settings: tuple[str, ...]) -> None:
    applied = upgrades.done(ON_POSTGRESQL, *settings)
    assert f"StatefulSet/{POSTGRESQL}" in applied
    assert _uses_database(applied)


def test_a_database_is_not_left_behind_unless_that_is_said(upgrades: Upgrades) -> None:
    said = upgrades.refused(ON_POSTGRESQL, "postgresql.enabled=false")
    assert "The data of storage is in a database" in said
    assert "The data of storage is in a database" in upgrades.refused(ON_POSTGRESQL[:2])  # it was named
    applied = upgrades.done(ON_POSTGRESQL, "storage.abandonDatabase=true")
    assert f"StatefulSet/{POSTGRESQL}" not in applied
    assert not _uses_database(applied)


# What is there stays


def test_the_claim_of_a_file_stays_where_it_is(upgrades: Upgrades) -> None:
    claim = _object("v1", "PersistentVolumeClaim", NAME)
    settings = (THREE, "storage.persistence.enabled=true")
    assert f"PersistentVolumeClaim/{NAME}" in upgrades.done([claim], *settings)
    assert f"PersistentVolumeClaim/{NAME}" not in upgrades.done([], *settings)


def test_an_autoscaler_begins_with_as_many_pods_as_there_are(upgrades: Upgrades) -> None:
    applied = upgrades.done(ON_POSTGRESQL, "autoscaling.enabled=true")
    assert applied[f"Deployment/{NAME}"]["spec"]["replicas"] == 4


def test_keys_tokens_and_passwords_are_made_once(upgrades: Upgrades) -> None:
    made = upgrades.done([], THREE)
    secrets = [item for key, item in made.items() if key.startswith("Secret/")]
    assert len(secrets) == 2
    again = upgrades.done(secrets, THREE)
    for item in secrets:
        assert again[f"Secret/{item['metadata']['name']}"]["data"] == item["data"]
    password = base64.b64decode(made[f"Secret/{POSTGRESQL}"]["data"]["password"])
    assert len(password) >= 32
