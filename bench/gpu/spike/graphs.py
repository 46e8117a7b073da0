"""A launch in a captured graph: what its padding costs, and whether it follows a plan that is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, NotHere, Section
from pavane.bench.gpu.spike.launch import Launch, Pool, results
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import seconds

PADDED = Row("captured, 16 pieces with room for 64 / without room")
FOLLOWS = Row("captured, then planned anew: largest difference from the same launch uncaptured")
REPLAY = Row("16 pieces of 512 keys: replayed / launched one by one")
LAYERS = 32


@dataclass(frozen=True)
class Captured:
    """A launch whose buffers stay where they are, with room for `room` pieces."""

    launch: Launch
    room: int
    q: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor
    graph: torch.cuda.CUDAGraph

    @classmethod
    def of(cls, pool: Pool, rows: int, keys: list[int], room: int) -> Captured:
        device = pool.device
        qo, kv = (torch.zeros(room + 1, dtype=torch.int32, device=device) for _ in range(2))
        launch = pool.launch(
            "fa2",
            use_cuda_graph=True,
            qo_indptr_buf=qo,
            paged_kv_indptr_buf=kv,
            paged_kv_indices_buf=torch.zeros(len(pool.k), dtype=torch.int32, device=device),
            paged_kv_last_page_len_buf=torch.ones(room, dtype=torch.int32, device=device),
        )
        q = pool.queries(rows * len(keys))
        out, lse = results(q)
        launch.plan(*padded(rows, keys, room))
        launch.run(q, out, lse)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(LAYERS):
                launch.run(q, out, lse)
        return cls(launch, room, q, out, lse, graph)


def padded(rows: int, keys: list[int], room: int) -> tuple[list[int], list[int]]:
    """Rows and keys of `room` pieces: those there are, then empty ones."""
    empty = [0] * (room - len(keys))
    return [rows] * len(keys) + empty, keys + empty


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    if subject.card.device.type != "cuda":
        raise NotHere("only a GPU has graphs to capture")
    pool = Pool.of(subject, 16 * 512)
    keys = [512] * 16
    exact, wide = (Captured.of(pool, 4, keys, room) for room in (16, 64))
    tight, roomy = (seconds(pool.device, captured.graph.replay) / LAYERS for captured in (exact, wide))
    yield Measured(PADDED.what, roomy / tight, f"{roomy * 1e6:.1f} us", f"{tight * 1e6:.1f} us")

    plain = pool.launch("fa2")
    plain.plan([4] * 16, keys)
    out, lse = results(wide.q)

    def layers() -> None:
        for _ in range(LAYERS):
            plain.run(wide.q, out, lse)

    one = seconds(pool.device, layers) / LAYERS
    yield Measured(REPLAY.what, tight / one, f"{tight * 1e6:.1f} us", f"{one * 1e6:.1f} us")

    fewer = [100, 412, *[300] * 7]
    wide.launch.plan(*padded(4, fewer, wide.room))
    wide.out.fill_(torch.nan)
    wide.graph.replay()
    plain.plan([4] * len(fewer), fewer)
    rows = 4 * len(fewer)
    plain.run(wide.q[:rows], out[:rows], lse[:rows])
    difference = (wide.out[:rows].float() - out[:rows].float()).abs().max()
    notes.data["pieces after the capture"] = fewer
    yield Measured(FOLLOWS.what, float(difference))


SECTION = Section("graphs", (PADDED, FOLLOWS, REPLAY), 10, measure)
