"""One run of a workflow on Pavane: sampled, to be recorded, or with the recorded tokens."""

from __future__ import annotations

from typing import Any

from pavane.bench.lab import Lab
from pavane.bench.metrics import scrape
from pavane.bench.prediction import counted, predict
from pavane.bench.workflows.cases import Case
from pavane.bench.workflows.records import RecordedCall, Recording, Run, TimedCall
from pavane.clients import Admin
from pavane.clients.workflows.outcome import Outcome, header
from pavane.clients.workflows.setting import Setting

SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {"fidelity": "exact"},
    "reuse": {"fidelity": "reuse"},
    "as-encoded": {"fidelity": "reuse", "layout": "as_encoded"},
}
KEYS = "pavane_kv_tokens_read_total"


async def record(lab: Lab, case: Case, seed: int) -> Recording:
    """The tokens that all runs repeat: sampled once, all edges EXACT, answers as long as they may be."""
    outcome = await _run(lab, case, Setting(fidelity="exact", equal_lengths=True, seed=seed))
    done = {i: message for i, message in outcome.messages.items() if message.state == "done"}
    calls = [
        RecordedCall(
            id=i,
            parents=tuple(edge.id for edge in outcome.parents[i]),
            header=header(message),
            content=message.content if i in outcome.answers else (),
            trailer=message.tokens[len(message.tokens) - message.receipt.trailer :],
            decode=i in outcome.answers,
        )
        for i, message in done.items()
    ]
    async with Admin(lab.pavane.target) as admin:
        tier = (await admin.stats()).tiers[0]
    return Recording(case.name, case.kind.name, case.all_sizes, case.problem_name, tier.bytes_per_token, tuple(calls))


async def force(lab: Lab, case: Case, recording: Recording, arm: str, repetition: int) -> Run:
    """A run in a namespace of its own, which forces the recorded tokens one by one."""
    script = {call.id: call.content for call in recording.calls if call.decode}
    before = await scrape(lab.metrics_port)
    outcome = await _run(lab, case, Setting(equal_lengths=True, script=script, **SETTINGS[arm]))
    after = await scrape(lab.metrics_port)
    once, by_call = (int(after[f"{KEYS} {way}"] - before.get(f"{KEYS} {way}", 0)) for way in ("once", "by_call"))
    calls = tuple(_timed(outcome, i) for i in outcome.messages)
    tokens = counted(outcome.total)
    if outcome.total.reencoded:
        tokens["reencoded"] = outcome.total.reencoded
    return Run(case.name, arm, repetition, outcome.wall, calls, tokens, _predicted(outcome, arm), once, by_call)


async def _run(lab: Lab, case: Case, setting: Setting) -> Outcome:
    async with lab.pavane.client() as client:
        return await case.kind.run(client, case.problem, case.sizes, setting)


def _timed(outcome: Outcome, i: str) -> TimedCall:
    receipt = outcome.messages[i].receipt
    return TimedCall(
        id=i,
        parents=tuple(edge.id for edge in outcome.parents[i]),
        decode=i in outcome.answers,
        ready=outcome.submitted[i] + receipt.blocked,
        queued=receipt.queued,
        first_token=receipt.first_token,
        total=receipt.total - receipt.blocked,
        visible=receipt.visible,
        generated=receipt.generated,
        in_place=receipt.reused_in_place,
        repositioned=receipt.repositioned,
        encoded=receipt.encoded,
        trailer=receipt.trailer,
        reencoded=receipt.reencoded,
    )


def _predicted(outcome: Outcome, arm: str) -> dict[str, int]:
    """By the closed formula; {} where there is none."""
    if arm == "as-encoded" or any(message.state != "done" for message in outcome.messages.values()):
        return {}
    return predict(outcome, "exact" if arm == "exact" else "reuse")
