"""The file of a benchmark: appended line by line, taken up again after an interruption."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Self, TypeVar

from pavane.bench.workflows.lines import BadRecord, as_line, from_line
from pavane.bench.workflows.records import Record, Recording, Run, Setup, Trouble

R = TypeVar("R", bound=Record)


class JournalFailed(Exception):  # noqa: N818
    """The file cannot be gone on with; the text says why and what to do."""


class Journal:
    """Records of one file, or of memory alone where `path` is None. What is added is on the disk when `add` returns."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.records: list[Record] = []
        if path is not None and path.exists():
            self.records = read(path)
            _cut_torn_line(path)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """In memory alone."""
        journal = cls(None)
        journal.records = [*records]
        return journal

    def begin(self, setup: Setup) -> bool:
        """Whether the file goes on from before. Raises JournalFailed if what it holds was measured otherwise."""
        before = self.setup
        if before is None:
            if self.records:
                raise JournalFailed(f"{self.path}: the first line must be the setup; give another --json")
            self.add(setup)
            return False
        for item in fields(Setup):
            then, now = getattr(before, item.name), getattr(setup, item.name)
            if then != now:
                raise JournalFailed(
                    f"{self.path} was measured with {item.name} {then!r}, and now it is {now!r}: "
                    "give another --json, or delete it to begin anew"
                )
        return True

    def add(self, record: Record) -> None:
        if self.path is not None:
            try:
                with self.path.open("a") as file:
                    file.write(as_line(record) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise JournalFailed(f"{self.path} cannot be written: {error}") from error
        self.records.append(record)

    @property
    def setup(self) -> Setup | None:
        first = self.records[0] if self.records else None
        return first if isinstance(first, Setup) else None

    def recording(self, case: str) -> Recording | None:
        return next((recording for recording in self.recordings if recording.case == case), None)

    def all(self, kind: type[R]) -> list[R]:
        """Those of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    @property
    def recordings(self) -> list[Recording]:
        return self.all(Recording)

    def runs(self, case: str, arm: str | None = None) -> list[Run]:
        """Of one arm, or of all, in the order of their repetitions."""
        found = [run for run in self.all(Run) if run.case == case and arm in (None, run.arm)]
        return sorted(found, key=lambda run: run.repetition)

    def troubles(self, case: str) -> list[Trouble]:
        return [trouble for trouble in self.all(Trouble) if trouble.case == case]


def read(path: Path) -> list[Record]:
    """All whole lines of a file. Raises JournalFailed naming the line that is none of ours."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise JournalFailed(f"{path} cannot be read: {error}") from error
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break  # what an interruption left of a line
        try:
            records.append(from_line(line))
        except BadRecord as error:
            raise JournalFailed(f"{path}, line {number}: {error}") from None
    return records


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
