"""What a workflow gave and took: its result, the receipts of its calls, and a sentence on what was reused."""

from __future__ import annotations

from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.bench.prediction import predict
from pavane.clients import Fidelity, Receipt
from pavane.clients.workflows import Outcome

WIDE = 84  # columns, from which on there is room for all of a receipt


def show(console: Console, outcome: Outcome) -> None:
    """Prints all three."""
    console.print(result(outcome), end="\n\n")
    console.print(receipts(outcome, console.width), end="\n\n")
    console.print(Text(sentence(outcome)))


def result(outcome: Outcome) -> Text:
    """The workflow's own fields; answers that are messages are on the board already."""
    common = {one.name for one in fields(Outcome)}
    shown = Text()
    for one in fields(outcome):
        value = getattr(outcome, one.name)
        if one.name not in common and (isinstance(value, str | int) or _plain(value)):
            words = value.strip() if isinstance(value, str) else _words(value)
            shown.append("\n" if shown else "").append(f"{one.name}  ", style="bold cyan").append(words)
    return shown


def receipts(outcome: Outcome, width: int) -> Table:
    """A row for each call and one for the whole, in `width` columns: numbers are never cut."""
    wide = width >= WIDE
    table = Table(box=None, show_footer=True, padding=(0, 2, 0, 0), pad_edge=False, footer_style="bold")
    table.add_column("message", "total", no_wrap=True, overflow="ellipsis")
    names = ("in place", "moved", "encoded" if wide else "new", "generated" if wide else "made")
    for name, count in zip(names, _counts(outcome.total), strict=True):
        table.add_column(name, count, justify="right", no_wrap=True, min_width=len(count))
    table.add_column("first token" if wide else "first", f"wall {outcome.wall:.2f} s", justify="right", no_wrap=True)
    if wide:
        table.add_column("end", no_wrap=True)
    for message in outcome.messages.values():
        first = f"{message.receipt.first_token:.2f} s" if message.finish else ""
        end = [message.finish.replace("_", " ") or message.state] if wide else []
        table.add_row(Text(message.id), *_counts(message.receipt), first, *end)
    return table


def sentence(outcome: Outcome) -> str:
    """What was read of what was encoded before, and what the other fidelity would have taken."""
    total = outcome.total
    read = total.reused_in_place + total.repositioned
    said = f"Of {total.visible:,} tokens in sight of the calls {read:,} were read from the cache"
    said += f", {total.repositioned:,} of them in another place" if total.repositioned else ""
    said += f"; {total.encoded:,} were encoded."
    if any(message.state != "done" for message in outcome.messages.values()):
        return said
    every = {edge.fidelity for edges in outcome.parents.values() for edge in edges}
    if every == {"reuse"}:
        return f"{said} Chat prompts of the same messages, with a prefix cache: {_encoded(outcome, 'exact'):,}."
    if every == {"exact"}:
        return f"{said} With reuse: {_encoded(outcome, 'reuse'):,}."
    return said


def _encoded(outcome: Outcome, fidelity: Fidelity) -> int:
    return predict(outcome, fidelity)["encoded"]


def _counts(receipt: Receipt) -> list[str]:
    counts = (receipt.reused_in_place, receipt.repositioned, receipt.encoded, receipt.generated)
    return [f"{count:,}" for count in counts]


def _plain(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, str | int) or _plain(part) for part in value)


def _words(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value).strip()
    return ("\n" if any("\n" in str(part) for part in value) else ", ").join(
        f"({_words(part)})" if isinstance(part, tuple) else _words(part) for part in value
    )
