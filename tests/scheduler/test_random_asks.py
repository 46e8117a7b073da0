"""Random steps with scores and with calls that ask where their attention goes; all is checked after each."""

from __future__ import annotations

import pytest
from support.random_asks import AskingDriver

STEPS, CASES = 60, 25
KINDS = [{}, {}, {"calm": True}, {"chatty": True}, {"host_pages": 12}]


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_random_steps(number: int) -> None:
    done = 0
    scored = attention = 0
    for case in range(CASES):
        seed = 1000 * number + case
        driver = AskingDriver(seed, **KINDS[number])
        try:
            for _ in range(STEPS):
                driver.step()
            driver.rest()
            driver.leave()
        except BaseException as error:
            error.add_note(f"seed {seed}, {KINDS[number]}, step {driver.steps}")
            raise
        done += driver.steps
        scored += driver.done["scored"]
        attention += driver.done["attention"]
    assert done > STEPS * CASES
    assert scored > 10
    assert attention > 10
