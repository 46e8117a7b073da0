"""The picture of `pavane top`: rows of text that fit 80 columns and use what there is more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from pavane.clients import ServerInfo
from pavane.clients.admin_results import Activity, Stats, WorkflowStats

NARROWEST = 60
LABEL = 9  # columns of what a row is about
BAR = 16
TENANTS = 4  # namespaces with a bar of their own, at most
NAMES = 16  # columns for tenant and workflow, at least
COLUMNS = {  # HOST only where there is such a tier
    "RUN": 4, "QUEUE": 5, "BLOCK": 5, "DONE": 5,
    "TOKENS": 6, "STORED": 6, "HOST": 5, "SPENT": 6, "BUDGET": 6, "IDLE": 5,
}  # fmt: skip
Part = tuple[int, str, str]  # size, what it is, its style


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown. `earlier` is the look before, for rates; `trouble` why there was no newer one."""

    target: str
    info: ServerInfo
    stats: Stats
    workflows: tuple[WorkflowStats, ...]
    earlier: Stats | None = None
    trouble: str = ""


def render(frame: Frame, console: Console, height: int | None) -> Text:
    """At most `height` rows (None: all) of the console's width."""
    view = _View(frame, max(NARROWEST, console.width), ascii_only=console.options.ascii_only)
    rows = [*view.head(), Text(), *view.slots(), Text(), *view.reuse(), Text()]
    rows += view.workflows(None if height is None else max(0, height - len(rows) - 1))
    for row in rows:
        row.truncate(console.width)
    return Text("\n").join(rows[:height])


class _View:
    def __init__(self, frame: Frame, width: int, *, ascii_only: bool) -> None:
        self._frame = frame
        self._stats = frame.stats
        self._width = width
        self._glyphs = "#=-." if ascii_only else "█▓▒░"

    def head(self) -> list[Text]:
        frame, stats, calls = self._frame, self._stats, self._stats.calls
        left = f"pavane top · {frame.target} · up {_span(stats.uptime)} · {frame.info.model}"
        title = Text(left.ljust(self._width - 8)[: self._width - 8] + " q quits", style="bold")
        if frame.trouble:
            title = Text(f"no answer, numbers are old: {frame.trouble}", style="bold red")
        seconds, done = self._lately()
        steps = max(1, done.steps)
        return [
            title,
            _row(
                "calls",
                f"running {calls.running}/{stats.max_running}  queued {short(calls.queued)}  "
                f"blocked {short(calls.blocked)}   done {short(calls.done)}  failed {short(calls.failed)}  "
                f"cancelled {short(calls.cancelled)}",
            ),
            _row(
                "steps",
                f"{_rate(done.steps, seconds)}/s of {1000 * done.step_time / steps:.1f} ms with "
                f"{done.rows / steps:.1f} rows · p95 {1000 * stats.step_p95:.1f} ms, longest "
                f"{1000 * stats.step_longest:.0f} ms",
            ),
            _row(
                "tokens",
                f"{_rate(done.sampled, seconds)}/s generated · {_rate(done.rows, seconds)}/s encoded · "
                f"{short(stats.since_start.sampled)} generated since start",
            ),
        ]

    def slots(self) -> list[Text]:
        stats = self._stats
        size = sum(tier.capacity * tier.bytes_per_token for tier in stats.tiers if tier.name == "slots")
        rows = [
            self._bar(
                "slots",
                (
                    (stats.slots_locked, "locked", "cyan"),
                    (stats.slots_idle, "idle", "blue"),
                    (stats.slots_free, "free", "dim"),
                ),
                f"of {short(stats.slots)}, {_bytes(size)}",
            )
        ]
        for tier in stats.tiers:
            if tier.name != "slots":
                parts = ((tier.used, "used", "magenta"), (max(0, tier.capacity - tier.used), "free", "dim"))
                size = tier.capacity * tier.bytes_per_token
                moved = f"{short(tier.kept_tokens)} in, {short(tier.fetched_tokens)} out"
                rows.append(self._bar(tier.name, parts, f"of {short(tier.capacity)}, {_bytes(size)} · {moved}"))
        if len(stats.namespaces) > 1 or (stats.namespaces and stats.namespaces[0][0]):
            for name, held in stats.namespaces[:TENANTS]:
                width = self._width - LABEL - 24
                filled = min(width, max(1, round(width * held / max(1, stats.slots))))
                line = _row("", f"{_clip(name or '-', 14):14} ")
                line.append(self._glyphs[0] * filled, "green")
                rows.append(line.append(f" {short(held)}"))
            others = stats.namespaces[TENANTS:]
            if others:
                rows.append(_row("", f"and {len(others)} more with {short(sum(held for _, held in others))}"))
        return rows

    def reuse(self) -> list[Text]:
        recent = f"reuse {round(self._stats.recent_window)}s"
        return [self._reuse(recent, self._stats.recent), self._reuse("reuse all", self._stats.since_start)]

    def workflows(self, room: int | None) -> list[Text]:
        """The title, and as many as `room` has rows for."""
        if not self._frame.workflows:
            return [Text("no workflow is open", style="dim")]
        host = any(tier.name == "host" for tier in self._stats.tiers)
        columns = {head: width for head, width in COLUMNS.items() if host or head != "HOST"}
        names = max(NAMES, self._width - sum(columns.values()) - len(columns) - 1)
        tenant = names * 2 // 5
        heads = "".join(f" {head:>{width}}" for head, width in columns.items())
        title = f"{'TENANT':{tenant}} {'WORKFLOW':{names - tenant}}{heads}"
        rows = [Text(title, style="reverse")]
        for w in self._frame.workflows[:room]:
            budget = short(w.budget_tokens) if w.budget_tokens else "-"
            counts = (w.calls.running, w.calls.queued, w.calls.blocked, w.calls.done, w.tokens, w.tokens_in_slots)
            below = (w.tokens_on_host,) if host else ()
            values = (*map(short, (*counts, *below, w.spent_tokens)), budget, _span(w.idle))
            cells = "".join(f" {value:>{width}}" for value, width in zip(values, columns.values(), strict=True))
            line = f"{_clip(w.namespace or '-', tenant):{tenant}} {_clip(w.id, names - tenant):{names - tenant}}{cells}"
            rows.append(Text(line, style="" if w.calls.unfinished else "dim"))
        return rows

    def _lately(self) -> tuple[float, Activity]:
        """Seconds, and what was done in them: since the last look, or in the last minute."""
        now, before = self._stats, self._frame.earlier
        if before is None:
            return max(1e-9, now.recent_window), now.recent
        new, old = now.since_start, before.since_start
        between = Activity(
            new.ended,
            new.sampled - old.sampled,
            new.steps - old.steps,
            new.rows - old.rows,
            new.step_time - old.step_time,
            new.forward_time - old.forward_time,
        )
        return now.uptime - before.uptime, between

    def _reuse(self, label: str, activity: Activity) -> Text:
        ended = activity.ended
        return self._bar(
            label,
            (
                (ended.reused_in_place, "in place", "green"),
                (ended.repositioned, "moved", "cyan"),
                (ended.encoded, "encoded", "yellow"),
            ),
            f"· {short(ended.reencoded)} again",
        )

    def _bar(self, label: str, parts: Sequence[Part], note: str) -> Text:
        total = sum(size for size, _, _ in parts)
        words = " · ".join(f"{100 * size / max(1, total):.0f}% {what}" for size, what, _ in parts)
        line = _row(label, "")
        for (_, _, style), glyph, columns in zip(parts, self._glyphs, shares([p[0] for p in parts], BAR), strict=False):
            line.append(glyph * columns, style)
        return line.append(f" {words} {note}" if total else " " * BAR + " -")


def shares(sizes: Iterable[int], columns: int) -> list[int]:
    """`columns` handed out in proportion to `sizes`: all of them unless all sizes are 0, and none to a size of 0."""
    sizes = list(sizes)
    total = sum(sizes)
    ends = [round(columns * sum(sizes[: i + 1]) / total) if total else 0 for i in range(len(sizes))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def short(count: float) -> str:
    """At most 5 characters: 999, 1.2k, 12k, 1.2M."""
    if count < 1000:
        return f"{count:.0f}"
    for unit in "kMGT":
        count /= 1000
        if count < 9.95:
            return f"{count:.1f}{unit}"
        if count < 999.5:
            return f"{count:.0f}{unit}"
    return f"{count:.0f}T"


def _row(label: str, text: str) -> Text:
    return Text.assemble((f"{label:{LABEL}} "[: LABEL + 1], "bold"), text)


def _rate(count: float, seconds: float) -> str:
    rate = count / max(1e-9, seconds)
    return f"{rate:.1f}" if rate < 10 else short(rate)


def _span(seconds: float) -> str:
    """At most 5 characters: 12s, 5m12, 3h05, 12d."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    if whole < 86_400:
        return f"{whole // 3600}h{whole // 60 % 60:02}"
    return f"{whole // 86_400}d"


def _bytes(size: float) -> str:
    return f"{short(size)}B"


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"
