"""Random steps of everything that can happen to a scheduler; cache, counts and tokens are checked after each.

More than 200,000 steps in all. Most cases are short and their pools are small: such states are where defects show, and
cheap enough to be audited whole after every single step.
"""

from __future__ import annotations

from collections import Counter

import pytest
from support.random_driver import drive

from pavane.scheduler import layout, reads

PART = 10_000  # steps of one test
SHORT, LONG = 50, 250  # steps of a case before it comes to rest


@pytest.fixture(autouse=True)
def _share_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts are short: else nothing would be read together where it was encoded, headers least of all."""
    monkeypatch.setattr(layout, "MERGE_COST", 4)
    monkeypatch.setattr(reads, "HEADER", 2)


def part(first_seed: int, **kind: bool | int) -> tuple[int, Counter[str]]:
    """Case after case until there were so many steps. Returns how many, and how often each thing happened in them."""
    steps, seed, done = 0, first_seed, Counter[str]()
    while steps < PART:
        driver = drive(seed, LONG if seed == first_seed and "calm" not in kind else SHORT, **kind)
        steps, done, seed = steps + driver.steps, done + driver.done, seed + 1
        if driver.runner.tier is not None:
            tier = driver.runner.tier
            done.update(landed=tier.landed, not_landed=tier.failed, lost=tier.lost)
    return steps, done


WILD = ("cancel", "seal", "close", "expire", "expired", "failed")
AHEAD = ("adopted", "adopted in part", "ahead of those that wait", "ahead of prompts", "ahead of what ends")
ALWAYS = ("submit", "release", "evict", "preempt", "committed")
PARTS: list[tuple[str, dict[str, bool | int], tuple[str, ...]]] = [
    *[("anything", {}, WILD)] * 8,
    *[("calm", {"calm": True}, ())] * 2,
    *[("decodes ahead", {"chatty": True}, (*WILD, *AHEAD))] * 3,
    *[("calm decodes ahead", {"chatty": True, "calm": True}, AHEAD)],
    *[("tier of 3 pages", {"host_pages": 3}, (*WILD, "landed", "not_landed", "lost"))] * 2,
    *[("tier of 12 pages", {"host_pages": 12}, (*WILD, "promote", "landed", "not_landed", "lost"))] * 2,
    *[("tier of 100 pages", {"host_pages": 100}, (*WILD, "promote", "landed", "not_landed", "lost"))] * 2,
    *[("calm tier", {"calm": True, "host_pages": 12}, ("promote", "landed"))],
]


@pytest.mark.parametrize("number", range(len(PARTS)), ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(PARTS)])
def test_random_steps(number: int) -> None:
    _, kind, things = PARTS[number]
    steps, done = part(1000 * number, **kind)
    assert steps >= PART
    assert {thing: done[thing] for thing in (*ALWAYS, *things) if done[thing] < 5} == {}


def test_there_are_enough_steps() -> None:
    assert len(PARTS) * PART >= 200_000
