"""A host listens in plaintext only where no other machine reaches it."""

from __future__ import annotations

import pytest

from cpg_trio.host.access.listening import check_listening
from cpg_trio.http import StartError

PRIVATE = ["127.0.0.1:8080", "[::1]:8080", "localhost:8080", "unix:/run/host.sock"]


def test_plaintext_may_stay_on_this_machine() -> None:
    check_listening(PRIVATE, encrypted=False)


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "[::]:8080", "192.0.2.7:8080", "host.example:8080"])
def test_plaintext_for_other_machines_is_refused_by_the_address_and_with_what_to_do(bind: str) -> None:
    with pytest.raises(StartError) as refused:
        check_listening([*PRIVATE, bind], encrypted=False)
    message = str(refused.value)
    assert f"would listen on {bind} without TLS" in message
    assert all(way in message for way in ("TLS_CERT", "BIND=127.0.0.1", "ALLOW_PLAINTEXT=true"))
    check_listening([*PRIVATE, bind], encrypted=True)
