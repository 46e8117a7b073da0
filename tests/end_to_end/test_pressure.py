"""The real model in a pool of a third of what the load needs: the answers of a pool with room for all."""

from __future__ import annotations

from pavane.bench.pressure import EXACT, QUICK, Arm, differences, measure


def said(arm: Arm) -> dict[str, tuple[object, ...]]:
    return {
        name: (answer.result.tokens, answer.result.logprobs, answer.result.top_logprobs)
        for name, answer in arm.answers.items()
    }


async def test_answers_do_not_depend_on_what_had_to_go_meanwhile() -> None:
    roomy, small, host = await measure(QUICK, 3.0, EXACT, again=False)
    assert (roomy.evicted, roomy.reencoded, roomy.to_host) == (0, 0, 0)
    for arm in (small, host):
        assert 3 * arm.slots <= roomy.used
        assert arm.evicted > arm.slots
        assert differences(roomy, arm) == ([], [])
        assert said(arm) == said(roomy)
    assert small.reencoded > small.slots
    assert (small.to_host, small.from_host) == (0, 0)
    assert host.to_host > host.slots
    assert host.from_host > host.slots
    assert host.reencoded < small.reencoded
