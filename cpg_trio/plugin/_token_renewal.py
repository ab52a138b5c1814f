"""Renewing the token of a session before it expires, by another handshake."""

from __future__ import annotations

import logging
import random

import trio

from cpg_trio import _clock
from cpg_trio.plugin._retry import FIRST_S, PERMANENT_ERRORS, Backoff
from cpg_trio.plugin._session import Introduction, Session, shake_hands
from cpg_trio.rpc import ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")

_RENEWED_AT = 0.4, 0.6  # of the lifetime of a token: between these two, at random


async def keep_renewed(session: Session, introduction: Introduction) -> None:
    """Renew the token well before it expires, until the session is lost or the task is cancelled.

    A managed session whose host has not told the lifetime of its tokens is renewed at once, to learn it.
    """
    backoff = Backoff()
    wait_s = 0.0 if session.managed and not session.host_id else _renewal_s(session)
    while True:
        await trio.sleep(wait_s)
        try:
            if not await renew(session, introduction):
                return
        except ConnectError as error:
            level = logging.WARNING if error.code in PERMANENT_ERRORS else logging.DEBUG
            _log.log(level, "%s has got no other token yet: %s", session.runtime_id, error.message)
            wait_s = backoff.next_s()
        else:
            backoff.reset()
            wait_s = _renewal_s(session)


async def renew(session: Session, introduction: Introduction) -> bool:
    """Shake hands as the session; return whether its host still knows it. Raises: ConnectError."""
    asked_at, metadata = _clock.current_time(), ResponseMetadata()
    answer = await shake_hands("", session.hosts.http, introduction, session.headers, metadata)
    session.time.update(metadata.headers.get("date", ""), asked_at)
    session.apply(answer.server_metadata)
    if answer.runtime_id == session.runtime_id:
        session.take_token(answer.runtime_token)
        return True
    if not session.managed:  # a managed plugin gets identities from its host alone
        session.void.set()
    return False


def _renewal_s(session: Session) -> float:
    """Return in how many seconds to renew the token."""
    return max(FIRST_S, session.token_ttl_s * random.uniform(*_RENEWED_AT))  # noqa: S311 - spreads load
