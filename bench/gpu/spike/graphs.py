"""A launch in a captured graph: what its padding costs, and whether it follows a plan that is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, NotHere, Section
from pavane.bench.gpu.spike.launch import Launch, Pool, results
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import event, host_seconds, synchronise
from pavane.kernels.gpu.captured import Bucket, largest_groups

ROWS, PIECE, PIECES, ROOM, LAYERS = 4, 512, 16, 64, 32
PADDED = Row("captured, 16 pieces with room for 64 / without room")
FOLLOWS = Row("captured, then planned anew: largest difference from the same launch uncaptured")
LAUNCHING = Row("a launch from Python: host us")


@dataclass(frozen=True)
class Captured:
    """A launch per layer whose buffers stay where they are, with room for so many pieces and parts."""

    launch: Launch
    q: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor
    graph: torch.cuda.CUDAGraph

    @classmethod
    def of(cls, pool: Pool, keys: list[int], room: int) -> Captured:
        device = pool.device
        qo, kv = (torch.zeros(room + 1, dtype=torch.int32, device=device) for _ in range(2))
        launch = pool.launch(
            "fa2",
            use_cuda_graph=True,
            qo_indptr_buf=qo,
            paged_kv_indptr_buf=kv,
            paged_kv_indices_buf=torch.zeros(pool.k.shape[1], dtype=torch.int32, device=device),
            paged_kv_last_page_len_buf=torch.ones(room, dtype=torch.int32, device=device),
        )
        # The first plan has the most rows there can be, and with them the tile of all: that of pieces of many rows.
        bucket = Bucket(0, 0, room, max(ROWS * len(keys), 2 * room), True)
        (most,) = largest_groups(bucket)
        q = pool.queries(bucket.parts)
        out, lse = results(q)
        launch.plan(np.diff(most.qo_indptr).tolist(), [1] * room)
        launch.run(q, pool.k[0], pool.v[0], out, lse)
        synchronise(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for k, v in zip(pool.k, pool.v, strict=True):
                launch.run(q, k, v, out, lse)
        launch.plan(*padded(ROWS, keys, room))
        return cls(launch, q, out, lse, graph)

    def seconds(self, pool: Pool) -> float:
        """Of one layer."""
        begin, end = event(), event()
        self.graph.replay()
        begin.record()
        for _ in range(20):
            self.graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / 20 / len(pool.k)


def padded(rows: int, keys: list[int], room: int) -> tuple[list[int], list[int]]:
    """Rows and keys of `room` pieces: those there are, then empty ones."""
    empty = [0] * (room - len(keys))
    return [rows] * len(keys) + empty, keys + empty


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    if subject.card.device.type != "cuda":
        raise NotHere("only a GPU has graphs to capture")
    pool = Pool.of(subject, PIECES * PIECE, LAYERS)
    keys = [PIECE] * PIECES
    exact, wide = (Captured.of(pool, keys, room) for room in (PIECES, ROOM))
    tight, roomy = exact.seconds(pool), wide.seconds(pool)
    yield Measured(PADDED.what, roomy / tight, f"{roomy * 1e6:.1f} us", f"{tight * 1e6:.1f} us")

    plain, k, v = pool.launch("fa2"), pool.k[-1], pool.v[-1]
    plain.plan([ROWS] * PIECES, keys)
    q = wide.q[: ROWS * PIECES]
    out, lse = results(q)
    host = host_seconds(pool.device, lambda: plain.run(q, k, v, out, lse))
    yield Measured(LAUNCHING.what, host * 1e6)

    fewer = [100, 412, *[300] * 7]
    rows = ROWS * len(fewer)
    wide.launch.plan(*padded(ROWS, fewer, ROOM))
    wide.out.fill_(torch.nan)
    wide.graph.replay()
    plain.plan([ROWS] * len(fewer), fewer)
    plain.run(q[:rows], k, v, out[:rows], lse[:rows])
    notes.data["keys of the pieces after the capture"] = fewer
    yield Measured(FOLLOWS.what, float((wide.out[:rows].float() - out[:rows].float()).abs().max()))


SECTION = Section("graphs", (PADDED, LAUNCHING, FOLLOWS), 10, measure)
