"""`host --check`: what a host would use, and what is wrong with it. It starts nothing and makes nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import attrs
import trio

from cpg_trio.cli._config import show_settings
from cpg_trio.host import HostConfig, check_store, host_binds, host_config
from cpg_trio.host.access import check_listening
from cpg_trio.http import BindError, StartError
from cpg_trio.http.server.listen import listening
from cpg_trio.process import log_from_environment
from cpg_trio.settings import Settings
from cpg_trio.variables import misspelt


@attrs.frozen
class Findings:
    """What is wrong, and what may be."""

    errors: Sequence[str]
    """A host with these settings does not start."""
    warnings: Sequence[str]


def check_host(settings: Settings, *, json: bool, reach: bool = False) -> int:
    """Print the settings of a host and what is wrong with them; return 1 if something is, otherwise 0.

    `reach`: whether to ask a store that hosts share whether this host fits it.
    """
    findings = trio.run(partial(find, reach=reach), settings)
    if json:
        print(_as_json(settings, findings))
    else:
        _show(settings, findings)
    return 1 if findings.errors else 0


async def find(settings: Settings, *, reach: bool = False) -> Findings:
    """Return what is wrong with the settings of a host, also with what it has to `reach`, if that is set."""
    errors: list[str] = []
    warnings = list(misspelt(os.environ))
    tries, binds = settings, list[str]()
    config = HostConfig()

    def read() -> None:
        nonlocal config, binds
        log_from_environment(tries.environment)
        config, binds = host_config(tries.environment), host_binds(tries.environment)

    # An error is about the settings that it names: what is wrong with the others is found without them.
    while error := _error_of(read):
        errors.append(settings.explained(error))
        if not (wrong := tries.named_in(error)) or not any(tries.environment.get(name) for name in wrong):
            return Findings(errors, warnings)
        tries = tries.without(wrong)
    errors += filter(None, map(_error_of, _steps(config, binds)))
    if config.store is not None and (reach or not config.store.shared):
        try:
            await check_store(config.store, config.keys)
        except StartError as error:
            errors.append(settings.explained(str(error)))
    for bind in _all_binds(config, binds):
        if why := await _why_not_free(bind):
            (warnings if why.is_in_use else errors).append(why.text)
    return Findings(list(dict.fromkeys(errors)), warnings)


def _error_of(step: Callable[[], object]) -> str:
    try:
        step()
    except StartError as error:
        return str(error)
    return ""


def _steps(config: HostConfig, binds: Sequence[str]) -> list[Callable[[], object]]:
    """Return what a host does with its files before it listens."""
    tls = config.serve.tls
    steps: list[Callable[[], object]] = [
        lambda: check_listening(binds, encrypted=tls.serves or config.allow_plaintext),
        tls.client_contexts().check,
        config.keys.check,
    ]
    if tls.serves:
        steps.append(tls.server_contexts().check)
    return steps


def _all_binds(config: HostConfig, binds: Sequence[str]) -> list[str]:
    others = [config.probe_bind, config.metrics_bind, config.admin and config.admin.bind]
    each = [[bind] if isinstance(bind, str) else bind or [] for bind in [binds, *others]]
    return list(chain.from_iterable(each))


@attrs.frozen
class _NotFree:
    text: str
    is_in_use: bool


async def _why_not_free(bind: str) -> _NotFree | None:
    """Listen on an address for a moment; return why that is not possible."""
    try:
        async with listening([bind], backlog=1, mode=0o600):
            return None
    except BindError as error:
        in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        return _NotFree(str(error), in_use)


def _as_json(settings: Settings, findings: Findings) -> str:
    listed = [attrs.asdict(setting) for setting in settings.listed]
    return json.dumps(
        {"ok": not findings.errors, **attrs.asdict(findings), "settings": listed},
        indent=2,
        ensure_ascii=False,
    )


def _show(settings: Settings, findings: Findings) -> None:
    print("a host does not start with this" if findings.errors else "a host would use this")
    for text in findings.errors:
        print(f"error: {text}")
    for text in findings.warnings:
        print(f"warning: {text}")
    print()
    show_settings(settings.listed)
