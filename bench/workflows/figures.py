"""From the runs of a case to figures: ratios of medians, with intervals, against the bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from pavane.bench.report import Bar, Figure, at_least, at_most
from pavane.bench.stats import Interval, ratio, spread
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import MODES, Recording, Run, TimedCall

Measure = Callable[[Run], float]
# Sizes that two cores can do, and their bars: first token from when parents were complete, and from the start; wall;
# wall against the fastest peer.
SIZES: Mapping[str, Mapping[str, int]] = {
    "debate": {"agents": 4, "rounds": 2, "answer_tokens": 96, "last_tokens": 96, "summary_tokens": 0},
    "tree-of-thoughts": {
        "proposals": 8,
        "votes": 8,
        "proposal_tokens": 96,
        "vote_tokens": 32,
        "final_tokens": 64,
        "need": 0,
    },
    "rag-team": {"agents": 6, "answer_tokens": 48, "judge_tokens": 48, "documents": 6, "document_tokens": 400},
}
BARS: Mapping[str, Mapping[str, Bar]] = {
    "debate": {"first": at_least(10), "wall": at_least(1.3), "peer": at_least(3)},
    "tree-of-thoughts": {"first": at_least(3)},
    "rag-team": {"first": at_least(40), "start": at_least(5), "wall": at_least(3), "peer": at_least(4)},
}
STEPS_BAR = at_most(3)


def joining(run: Run) -> list[TimedCall]:
    """The answers that read several parents: what comes before is the same for a prefix cache."""
    return [call for call in run.calls if call.decode and len(call.parents) > 1]


def first_token(run: Run) -> float:
    """Mean of the answers with several parents, from when these were complete. An answer that begins in the very step
    that completes its last parents has its first token as they are complete: there it counts from the step's beginning.
    """
    ends = {call.id: call.ready + call.total for call in run.calls}

    def waited(call: TimedCall) -> float:
        """For its parents, although it was ready."""
        complete = max((ends[parent] for parent in call.parents if parent in ends), default=0.0)
        return max(0.0, min(call.queued, complete - call.ready))

    return fmean(call.first_token - waited(call) for call in joining(run))


def first_token_from_start(run: Run) -> float:
    """Mean of the answers with several parents, from the start of the workflow."""
    return fmean(call.ready + call.first_token for call in joining(run))


def decode_time(run: Run) -> float:
    """Mean over the answers, from the first token to the end."""
    return fmean(call.total - call.first_token for call in run.calls if call.decode)


def wall(run: Run) -> float:
    """From the start until the last message is complete."""
    return run.wall


def kv_distinct(run: Run) -> float:
    """Tokens whose K and V steps read, those of a segment once for all calls that read it."""
    return run.kv_distinct


def kv_summed(run: Run) -> float:
    """The same if each call read for itself."""
    return run.kv_summed


MEASURES: Mapping[str, tuple[str, Measure, str]] = {
    "first": ("first token, parents complete", first_token, "s"),
    "start": ("first token, from the start", first_token_from_start, "s"),
    "decode": ("first token to the end", decode_time, "s"),
    "wall": ("wall", wall, "s"),
    "kv": ("KV read by steps", kv_distinct, "GB"),
}


def all_figures(journal: Journal, recordings: Sequence[Recording] | None = None) -> list[Figure]:
    """Of all cases of a journal, or of some."""
    chosen = journal.recordings if recordings is None else recordings
    return [figure for one in chosen for figure in figures(one, label(one, chosen), journal.runs(one.case))]


def label(recording: Recording, others: Sequence[Recording]) -> str:
    """The workflow, with the sizes in which its cases among `others` differ."""
    same = [other.sizes for other in others if other.workflow == recording.workflow]
    sizes = [f"{n} {v}" for n, v in recording.sizes.items() if any(other.get(n) != v for other in same)]
    return ", ".join([recording.workflow, *sizes])


def bars(recording: Recording) -> Mapping[str, Bar]:
    """Those of its sizes; none where it has other ones."""
    wanted = SIZES.get(recording.workflow, {})
    fits = wanted and all(recording.sizes.get(name) == value for name, value in wanted.items())
    return BARS[recording.workflow] if fits else {}


def figures(recording: Recording, label: str, runs: Sequence[Run]) -> list[Figure]:
    """EXACT against REUSE, the steps that a first token takes with REUSE, what sharing segments saves there, and peers
    against REUSE."""
    limits = bars(recording)
    kv_bytes = recording.kv_bytes_per_token
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    reuse = by_arm.get("reuse")
    if reuse is None:
        return []
    found = []
    if exact := by_arm.get("exact"):
        for name, (what, measure, unit) in MEASURES.items():
            limit, size = limits.get(name), kv_bytes if unit == "GB" else 0
            found.append(_figure(f"{label}: {what}, EXACT / REUSE", measure, exact, reuse, limit, size))
    once, by_call = (median(map(measure, reuse)) * kv_bytes / 1e9 for measure in (kv_distinct, kv_summed))
    what = f"{label}: KV read, each call for itself / as it is, REUSE"
    found.append(Figure(what, by_call / once, None, f"{once:.2f} GB", f"{by_call:.2f} GB"))
    steps = first_token_steps(reuse)
    if steps is not None:
        what = f"{label}: longest first token with all parents cached, in steps of its batch"
        found.append(Figure.of(what, steps, STEPS_BAR if limits else None, "", ""))
    peers = {name: each for name, each in by_arm.items() if name not in MODES}
    fastest = min(peers, key=lambda name: median(map(wall, peers[name])), default=None)
    for name, each in peers.items():
        bar = limits.get("peer") if name == fastest else None
        more = fmean(map(_read, each)) / fmean(map(_read, reuse)) - 1
        note = f", its prompts as text, {more:+.1%} tokens" if more else ""
        found.append(_figure(f"{label}: wall, {name} / REUSE{note}", wall, each, reuse, bar))
    return found


def first_token_steps(runs: Sequence[Run]) -> Interval | None:
    """Of calls that wait for an answer: all else that they read was cached when it came. First token by the decode step
    of the batch that the call joins: that of the answer it waited for last, which ends as it begins, or its own where
    that is longer. For each call the median over the runs; then the longest of them, with the spread over the runs of
    the longest. None if no call waits for an answer."""
    waiting = [_steps(run) for run in runs]
    if not waiting[0]:
        return None
    longest = max(median(run[i] for run in waiting) for i in waiting[0])
    over_runs = spread([max(run.values()) for run in waiting])
    return Interval(longest, min(longest, over_runs.low), max(longest, over_runs.high))


def _steps(run: Run) -> dict[str, float]:
    answers = {call.id: call for call in run.calls if call.decode}
    found = {}
    for call in answers.values():
        if awaited := [answers[parent] for parent in call.parents if parent in answers]:
            last = max(awaited, key=lambda parent: parent.ready + parent.total)
            found[call.id] = call.first_token / max(call.step, last.step)
    return found


def _read(run: Run) -> int:
    """Tokens of all prompts."""
    return sum(call.visible for call in run.calls if call.decode)


def _figure(
    what: str, measure: Measure, above: Sequence[Run], below: Sequence[Run], bar: Bar | None, kv_bytes: int = 0
) -> Figure:
    """Of times, or, with the bytes of a token's K and V, of tokens."""
    theirs, ours = [*map(measure, above)], [*map(measure, below)]
    shown = (
        f"{median(each) * kv_bytes / 1e9:.2f} GB" if kv_bytes else f"{median(each):.3f} s" for each in (ours, theirs)
    )
    return Figure.of(what, ratio(theirs, ours), bar, *shown)
