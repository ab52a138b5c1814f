"""A task beside a block, both of whose errors come out as themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cpg_trio.http.background import _block_error, background_task

if TYPE_CHECKING:
    pass


class BlockError(Exception):
    pass


async def test_ctrl_c_in_the_body_while_the_block_fails_is_the_context() -> None:
    async def interrupted() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    async def run() -> None:
        async with background_task(interrupted, trio.CancelScope()):
            await trio.testing.wait_all_tasks_blocked()
            raise BlockError

    with pytest.raises(BlockError) as caught:
        await run()
    assert isinstance(caught.value.__context__, KeyboardInterrupt)


def test_ctrl_c_while_the_nursery_closes_stays_in_a_group_with_the_error_of_the_block() -> None:
    group = BaseExceptionGroup("of a nursery", [BlockError(), KeyboardInterrupt()])
    assert _block_error(group, group.exceptions[0]) is group
