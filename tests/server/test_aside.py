"""Long requests are read in threads that give way."""

from __future__ import annotations

import os
import sys
import threading
from contextvars import ContextVar

import pytest

from pavane.server.aside import NICE, Aside

WHO = ContextVar("WHO", default="nobody")


@pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to processes here")
async def test_they_have_a_low_priority_of_their_own() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def priority(_: object) -> tuple[bool, int]:
        thread = threading.get_native_id()
        return thread != threading.main_thread().native_id, os.getpriority(os.PRIO_PROCESS, thread)

    assert await Aside().run(priority, None) == (True, NICE)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


async def test_work_is_done_in_the_callers_context_and_its_errors_come_back() -> None:
    WHO.set("somebody")
    aside = Aside()
    assert await aside.run(lambda what: (WHO.get(), what), 3) == ("somebody", 3)
    with pytest.raises(ZeroDivisionError):
        await aside.run(lambda what: 1 // what, 0)
