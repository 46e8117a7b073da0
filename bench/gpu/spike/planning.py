"""What FlashInfer's plan costs the processor: once a step and wrapper."""

from __future__ import annotations

from collections.abc import Iterator

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Pool
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import host_seconds

PIECES = (16, 64, 256, 1024)
HOST = {pieces: Row(f"plan of {pieces} pieces: host ms") for pieces in PIECES}


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    length = 2 if subject.card.small else 64
    pool = Pool.of(subject, length * PIECES[-1])
    slots = {pieces: pool.subject.ints(pieces * length) for pieces in PIECES}
    launch = pool.launch("fa2")
    for pieces in PIECES:
        took = host_seconds(pool.device, lambda n=pieces: launch.plan([4] * n, [length] * n, slots[n]))  # type: ignore[misc]
        yield Measured(HOST[pieces].what, took * 1e3)


SECTION = Section("planning", tuple(HOST.values()), 5, measure)
