"""Runs of plugins that the host has started: how it knows them when they come for their identities.

Each run has a token of its own, which is good for as long as the run lasts. A handshake that shows it belongs
to that run. For as long as the host manages a plugin whose runs have tokens, nobody else gets an identity of
its name: neither a stranger, nor the rest of a run that has ended. Plugins of other SDKs show no token; a
run of theirs is known by its name alone.

Plain synchronous state without I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from cpg_trio.host.access.identity import Identity
from cpg_trio.wire import token_digest


class StartedRun(Protocol):
    """A run that the host has started."""

    @property
    def self_id(self) -> str:
        """The name that it has to tell the host."""
        ...

    @property
    def runtime_id(self) -> str:
        """The identity that it has; empty if it has none."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether its identity is certainly its own, so that another one of its name is somebody else's."""
        ...

    @property
    def described(self) -> str:
        """Which plugin it is, for an error, as in `the plugin thumbs (platform.toml:12)`."""
        ...

    def bound(self, identity: Identity) -> None:
        """Take the identity that it has got."""
        ...

    def refused(self, why: str) -> None:
        """Note that its handshake is refused, whatever it does."""
        ...


class StartedRuns:
    """The runs that are expected, by token and by name."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, StartedRun] = {}
        self._by_name: dict[str, list[StartedRun]] = {}
        self._by_identity: dict[str, StartedRun] = {}
        self._reserved = Counter[str]()

    @contextmanager
    def reserved(self, self_id: str) -> Iterator[None]:
        """Within the block, give identities of a name to runs with a token only."""
        self._reserved[self_id] += 1
        try:
            yield
        finally:
            self._reserved[self_id] -= 1
            if not self._reserved[self_id]:
                del self._reserved[self_id]

    def is_reserved(self, self_id: str) -> bool:
        """Whether only runs with a token get identities of a name."""
        return self_id in self._reserved

    @contextmanager
    def expected(self, run: StartedRun, token: str | None) -> Iterator[None]:
        """Within the block, know a run by its token; without one, by its name."""
        with self._known_by_name(run) if token is None else self._known_by_token(run, token):
            yield

    @contextmanager
    def _known_by_token(self, run: StartedRun, token: str) -> Iterator[None]:
        digest = token_digest(token)
        self._by_token[digest] = run
        try:
            yield
        finally:
            del self._by_token[digest]

    @contextmanager
    def _known_by_name(self, run: StartedRun) -> Iterator[None]:
        of_name = self._by_name.setdefault(run.self_id, [])
        of_name.append(run)
        try:
            yield
        finally:
            of_name.remove(run)
            if not of_name:
                del self._by_name[run.self_id]

    def run_of(self, runtime_id: str) -> StartedRun | None:
        """Return the run that has an identity, None if no run has it."""
        return self._by_identity.get(runtime_id)

    def give(self, identity: Identity, run: StartedRun) -> None:
        """Give an identity to a run; it has no other one from now on."""
        self.take(run)
        self._by_identity[identity.runtime_id] = run
        run.bound(identity)

    def take(self, run: StartedRun) -> None:
        """Note that a run has no identity any more."""
        self._by_identity.pop(run.runtime_id, None)

    def proves(self, self_id: str, shown: str) -> bool:
        """Whether a token is that of a run that has this name."""
        run = self._of_token(shown)
        return run is not None and run.self_id == self_id

    def why_not(self, self_id: str, shown: str) -> str:
        """Return why a plugin with a token (empty for none) gets no identity of a name; empty if it does.

        If it may not although its token is that of a run, the run is told.
        """
        if (run := self._of_token(shown)) is not None and run.self_id != self_id:
            write = f'write id = "{self_id}" for it'
            run.refused(f'it calls itself "{self_id}", and not "{run.self_id}": {write}')
            return f'the host expects {run.described} as "{run.self_id}": {write}'
        if run is None and self_id in self._reserved:
            token = "this enrolment token is not one" if shown else "an enrolment token is needed"
            return f"this host starts {self_id} itself, each time with another enrolment token; {token}"
        return ""

    def bind(self, identity: Identity, shown: str) -> None:
        """Give a new identity to the run whose token was shown; without one, to a run of its name."""
        run = self._of_token(shown) or self._of_name(identity.self_id)
        if run is not None:
            self.give(identity, run)

    def _of_token(self, shown: str) -> StartedRun | None:
        return self._by_token.get(token_digest(shown)) if shown and self._by_token else None

    def _of_name(self, self_id: str) -> StartedRun | None:
        """Return the first run of a name that has no identity yet, or else the only one if it is not settled.

        Anybody may come by the name. So nobody takes the place of a run that has arrived.
        """
        of_name = self._by_name.get(self_id, [])
        free = next((run for run in of_name if not run.runtime_id), None)
        if free is None and len(of_name) == 1 and not of_name[0].is_settled:
            return of_name[0]
        return free
