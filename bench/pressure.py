"""What too small a pool does to answers: the same load with room for all of it, and in a third of that.

Evicted messages are encoded again, or moved to host memory and back. With --batch-invariant in float32 no token may
change by that. Without, the batch that something is computed in decides its last digits, and where two tokens were
nearly as likely the answer goes another way: how often is what this measures, next to the same load a second time
without any pressure, which also meets other batches. A difference counts as a first one if the answers that the call
has read were still the same; there the gap between the two likeliest tokens says how close it was.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from pavane.bench.arguments import positive
from pavane.bench.pressure_load import Answer, Scale, run_load
from pavane.bench.report import Figure, emit, say, table
from pavane.bench.server_process import ServerProcess
from pavane.clients import Client
from pavane.clients.admin import Admin

ROOMY = 16_384  # slots of a pool that is none too small
EXACT = ("--dtype", "float32", "--batch-invariant")
QUICK = Scale(debates=1, teams=1, chats=2, turns=2, words=16, tokens=5)


@dataclass(frozen=True)
class Arm:
    """One run of the load. `used`: slots with KV at its end; the rest are sums over its calls, and over the server's
    moves in tokens."""

    name: str
    slots: int
    answers: dict[str, Answer]
    used: int
    slot_bytes: int
    reencoded: int
    evicted: int
    to_host: int
    from_host: int


@dataclass(frozen=True)
class Difference:
    """Where an answer went another way: the place in it, and how much likelier the likeliest token was than the second
    (natural logarithm), as computed without pressure."""

    call: str
    place: int
    gap: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--share", type=float, default=3.0, help="the load needs so many times the pool (default: 3)")
    parser.add_argument("--debates", type=positive, default=4)
    parser.add_argument("--teams", type=positive, default=4)
    parser.add_argument("--chats", type=positive, default=6)
    parser.add_argument("--turns", type=positive, default=4)
    parser.add_argument("--words", type=positive, default=60, help="of a passage, about as many tokens (default: 60)")
    parser.add_argument("--tokens", type=positive, default=24, help="of an answer, exactly (default: 24)")
    parser.add_argument(
        "--exact", action="store_true", help="in float32 with --batch-invariant; fails if an answer differs"
    )
    parser.add_argument("--quick", action="store_true", help="a few calls that show that it works")


def run(args: argparse.Namespace) -> int:
    scale = Scale(args.debates, args.teams, args.chats, args.turns, args.words, args.tokens)
    if args.quick:
        scale = QUICK
    serve = (*(EXACT if args.exact else ()), *args.serve)
    arms = asyncio.run(measure(scale, args.share, serve, again=not args.exact))
    roomy, *others = arms
    found = {arm.name: differences(roomy, arm) for arm in others}
    data = {arm.name: _as_json(arm, found.get(arm.name)) for arm in arms}
    result = {"bench": "pressure", "exact": args.exact, "scale": asdict(scale), "need": roomy.used, "arms": data}
    emit(result, args.json)
    say(f"{len(roomy.answers)} answers, {roomy.used} slots needed, {others[-1].slots} in the small pool")
    say(table([figure for arm in others for figure in _figures(arm, *found[arm.name])]))
    return int(args.exact and any(changed for changed, _ in found.values()))


async def measure(scale: Scale, share: float, serve: Sequence[str], *, again: bool = True) -> list[Arm]:
    """The load with room for all, the same `again`, in a pool of 1 / `share` of what it used, and there with a host
    tier that has room for all. `serve`: flags for the servers."""
    arms = [await _arm("room for all", scale, ROOMY, serve)]
    if again:
        arms.append(await _arm("room for all, again", scale, ROOMY, serve))
    used, slots = arms[0].used, int(arms[0].used / share)
    arms.append(await _arm("small pool", scale, slots, serve))
    host_gb = 4 * used * arms[0].slot_bytes / 1e9
    arms.append(await _arm("small pool, host tier", scale, slots, (*serve, "--host-cache-gb", f"{host_gb:.6f}")))
    return arms


async def _arm(name: str, scale: Scale, slots: int, serve: Sequence[str]) -> Arm:
    async with (
        ServerProcess.serve("--num-slots", str(slots), "--admin", "on", *serve) as server,
        Client(server.target) as client,
        Admin(server.target) as admin,
    ):
        answers = await run_load(client, scale)
        stats = await admin.stats()
    again = stats.since_start.ended.reencoded
    host = next((tier for tier in stats.tiers if tier.name == "host"), None)
    fetched = host.fetched_tokens if host is not None else 0
    used = slots - stats.slots_free
    say(
        f"  {name}: {used} of {slots} slots used; tokens: {stats.evicted_tokens} evicted, {fetched} fetched, {again} "
        "encoded again"
    )
    return Arm(
        name, slots, answers, used, stats.tiers[0].bytes_per_token, again, stats.evicted_tokens,
        host.kept_tokens if host is not None else 0, fetched,
    )  # fmt: skip


def differences(roomy: Arm, arm: Arm) -> tuple[list[str], list[Difference]]:
    """The calls whose tokens differ, and the differences that do not follow from another."""
    changed: list[str] = []
    first: list[Difference] = []
    for name, answer in roomy.answers.items():
        ours, theirs = answer.result.content, arm.answers[name].result.content
        if ours == theirs:
            continue
        changed.append(name)
        if all(roomy.answers[read].result.content == arm.answers[read].result.content for read in answer.reads):
            place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
            (_, likeliest), (_, second) = answer.result.top_logprobs[place]
            first.append(Difference(name, place, likeliest - second))
    return changed, first


def _figures(arm: Arm, changed: list[str], first: list[Difference]) -> list[Figure]:
    count = len(arm.answers)
    figures = [
        Figure(f"{arm.name}: answers with other tokens", len(changed) / count, ours=f"{len(changed)} of {count}"),
        Figure(f"{arm.name}: encoded again, of the need", arm.reencoded / arm.used, ours=f"{arm.reencoded} tokens"),
    ]
    if first:
        gaps = [difference.gap for difference in first]
        what = f"{arm.name}: top-2 gap at the first differences"
        figures.append(Figure(f"{what}, median", median(gaps), ours=f"of {len(gaps)}"))
        figures.append(Figure(f"{what}, largest", max(gaps)))
    return figures


def _as_json(arm: Arm, found: tuple[list[str], list[Difference]] | None) -> dict[str, Any]:
    changed, first = found or ([], [])
    return {
        "slots": arm.slots,
        "used": arm.used,
        "answers": len(arm.answers),
        "different": changed,
        "share_different": len(changed) / len(arm.answers),
        "first_differences": [asdict(difference) for difference in first],
        "reencoded": arm.reencoded,
        "evicted_tokens": arm.evicted,
        "moved_to_host_tokens": arm.to_host,
        "moved_from_host_tokens": arm.from_host,
    }
