"""What the first use of each of FlashInfer's modules takes: seconds to minutes where it compiles, else moments."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Pool, results
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import synchronise

PAGED = Row("fa2, pages: first plan and run, s")
HOPPER = Row("fa3, pages: first plan and run, s")
RAGGED = Row("fa3, side by side: first plan and run, s")
MODULES = ((PAGED, "fa2", False), (HOPPER, "fa3", False), (RAGGED, "fa3", True))


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    pool = Pool.of(subject, 64)
    q = pool.queries(2)
    for row, backend, ragged in MODULES:
        began = time.perf_counter()
        launch = pool.launch(backend, ragged=ragged)
        launch.plan([2], [64])
        launch.run(q, pool.k[0], pool.v[0], *results(q))
        synchronise(subject.card.device)
        yield Measured(row.what, time.perf_counter() - began)


SECTION = Section("jit", tuple(row for row, _, _ in MODULES), 60, measure)
