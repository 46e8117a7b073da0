"""All repetitions of a case, arms interleaved, each finished one written down."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.bench.lab import Lab, interleaved
from pavane.bench.peers.http import PeerFailed
from pavane.bench.peers.peer import Peer
from pavane.bench.peers.replay import replay
from pavane.bench.report import say
from pavane.bench.workflows.arms import force, record
from pavane.bench.workflows.cases import BadCase, Case
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import Recording, Run, Trouble

WARM_UP = ([7, 8, 9] * 20, 4)  # prompt and tokens


async def recorded(lab: Lab, journal: Journal, case: Case, seed: int) -> Recording:
    """The case's recording; made now if the journal has none. Raises BadCase."""
    found = journal.recording(case.name)
    if found is None:
        try:
            found = await record(lab, case, seed)
        except ValueError as error:  # the workflow's own, with what to change
            raise BadCase(f"{case.kind.name}: {error}") from error
        journal.add(found)
    return found


async def measure(
    lab: Lab,
    journal: Journal,
    case: Case,
    recording: Recording,
    arms: Sequence[str | Peer],
    repeat: int,
    *,
    bos: int | None = None,
) -> None:
    """Makes the runs that the journal lacks: `repeat` of each arm, modes of Pavane by name. A peer that fails is given
    up, in words, and the others go on."""
    done = {(run.arm, run.repetition) for run in journal.runs(case.name)}
    failed: set[str] = set()
    warm: set[str] = set()
    async for i, arm in interleaved(arms, repeat):
        name = _name(arm)
        if (name, i) in done or name in failed:
            continue
        try:
            await _warm_up(lab, case, recording, arm, warm)
            run = await _once(lab, case, recording, arm, i, bos)
        except PeerFailed as error:
            failed.add(name)
            say(f"  {case.kind.name}, {name}: {error}; it is left out from here on")
            journal.add(Trouble(case.name, name, str(error)))
            continue
        journal.add(run)
        say(f"  {case.kind.name}, {name}, {i + 1} of {repeat}: {run.wall:.2f} s")


async def _warm_up(lab: Lab, case: Case, recording: Recording, arm: str | Peer, warm: set[str]) -> None:
    """The first pass of a process is slower; nobody should pay for it."""
    name = lab.pavane.name if isinstance(arm, str) else arm.name
    if name in warm:
        return
    warm.add(name)
    if isinstance(arm, str):
        await force(lab, case, recording, "reuse", 0)
    else:
        await arm.complete(*WARM_UP)


async def _once(lab: Lab, case: Case, recording: Recording, arm: str | Peer, i: int, bos: int | None) -> Run:
    if isinstance(arm, str):
        return await force(lab, case, recording, arm, i)
    calls, wall = await replay(arm, recording, i, bos=bos)
    return Run(case.name, arm.name, i, wall, tuple(calls))


def _name(arm: str | Peer) -> str:
    return arm if isinstance(arm, str) else arm.name
