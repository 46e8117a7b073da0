"""Plans hold for each row what the batch says it sees, whatever is cut, grouped, or rotated on the keys' side."""

from itertools import pairwise

import numpy as np
import pytest
from support.padding import padded

from pavane.kernels.batch import Batch
from pavane.kernels.gpu import plan as planning
from pavane.kernels.gpu.pieces import longest_piece
from pavane.kernels.gpu.plan import GpuPlan, Heads, make_plan
from tests.kernels.test_attention import Segment, make_batch, random_step, seen

Seen = list[list[tuple[int, int]]]  # of each row, (slot, angle of the query to the key as it is stored)
HEADS = Heads(group=3, kv_heads=2, blocks=264, scratch=10_000)


def told(positions: list[int], segments: list[Segment]) -> Seen:
    """By the batch's definition, token by token."""
    return [sorted((slot, at - delta) for slot, delta in seen(segments, row)) for row, at in enumerate(positions)]


def planned(plan: GpuPlan, rows: int) -> Seen:
    """What the kernels would read, part by part."""
    slots = [slot + i for slot, length in plan.extents.tolist() for i in range(length)]
    assert len(slots) == plan.n_keys
    turned = [0] * (plan.n_keys - plan.scratch_keys) + plan.key_angles.tolist()
    out: Seen = [[] for _ in range(rows)]
    parts = 0
    for group in plan.groups:
        assert group.first_part == parts
        bounds = zip(group.qo_indptr, group.qo_indptr[1:], group.kv_indptr, group.kv_indptr[1:], strict=False)
        for a, b, first, end in bounds:
            for i in range(a, b):
                last = end - (b - 1 - i) if group.kind.causal else end
                part = group.first_part + i
                keys = range(group.first_key + first, group.first_key + last)
                out[plan.pair_rows[part]] += [(slots[key], int(plan.angles[part]) - turned[key]) for key in keys]
        parts += group.qo_indptr[-1]
    assert parts == plan.n_parts
    return [sorted(keys) for keys in out]


def check(positions: list[int], segments: list[Segment], batch: Batch, heads: Heads) -> GpuPlan:
    plan = make_plan(batch, heads)
    assert planned(plan, batch.n_rows) == told(positions, segments)
    assert sorted(plan.order.tolist()) == list(range(plan.n_parts))
    for row in range(batch.n_rows):
        mine = plan.order[plan.merge_indptr[row] : plan.merge_indptr[row + 1]]
        assert (plan.pair_rows[mine] == row).all()
    assert plan.merged or plan.pair_rows.tolist() == list(range(batch.n_rows))
    assert plan.merged or not plan.pairs.size or (np.diff(plan.merge_indptr) == 1).all()
    return plan


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("limit", [1, 4, 512])
def test_random_batches(limit: int, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "longest_piece", lambda *_: limit)
    generator = np.random.default_rng(limit)
    heads = HEADS._replace(captured=captured)
    for i in range(25):
        positions, slots, segments = random_step(generator)
        batch = make_batch(positions, slots, segments)
        plan = check(positions, segments, padded(batch, 5) if i % 2 else batch, heads)
        for group in plan.groups:
            rows = np.diff(group.qo_indptr)
            assert not captured or set(rows == 1) == {group.kind.tile == 16}
            assert captured or (rows * HEADS.group <= group.kind.tile).all()


def test_pieces_lie_on_a_grid_from_the_first_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "longest_piece", lambda *_: 4)
    segments = [
        Segment(list(range(10)), [(0, 5), (1, 6)]),
        Segment([*range(20, 31), 40, 41], [(0, 0), (1, 0)], own=True),
    ]
    plan = check([50, 51], segments, make_batch([50, 51], [40, 41], segments), HEADS)
    # Four keys, four and two; of the causal one the rows' own keys stay with the last piece.
    assert [(g.kind.causal, np.diff(g.kv_indptr).tolist()) for g in plan.groups] == [
        (False, [4, 4, 2, 4, 4]),
        (True, [5]),
    ]


def test_what_the_device_takes_at_a_time_is_not_cut() -> None:
    lengths = np.array([8000, 100])
    assert longest_piece(lengths, kv_heads=8, blocks=264) >= 8000  # FlashInfer spreads two pieces itself
    assert longest_piece(np.full(64, 1000), 8, 264) == 2048  # all alike: a block's share is more than any
    assert longest_piece(np.array([16_000] + [50] * 63), 8, 264) == 1024
    assert longest_piece(np.array([2000] + [5] * 99), 8, 264) == 512


def parents_and_child(rows: int, lengths: list[int], own: int) -> tuple[list[int], list[int], list[Segment]]:
    """A call of `rows` rows with parents of `lengths` at deltas of their own and `own` keys before its rows."""
    ends = np.cumsum([0, *lengths, own, rows]).tolist()
    spans = [list(range(a, b)) for a, b in pairwise(ends)]
    segments = [Segment(keys, [(r, 7 * i + 1) for r in range(rows)]) for i, keys in enumerate(spans[:-2])]
    segments.append(Segment(spans[-2] + spans[-1], [(r, 0) for r in range(rows)], own=True))
    return list(range(100, 100 + rows)), spans[-1], segments


@pytest.mark.parametrize(
    ("rows", "lengths", "scratch", "keys"),
    [
        (128, [60, 60], 1000, 258),  # 256 pairs of three heads against 258 keys
        (128, [60, 60], 257, 0),  # they do not fit
        (127, [60, 60], 1000, 0),  # few rows
        (128, [700], 1000, 0),  # more keys than pairs
    ],
)
def test_keys_are_rotated_where_that_moves_less(rows: int, lengths: list[int], scratch: int, keys: int) -> None:
    positions, slots, segments = parents_and_child(rows, lengths, 10)
    batch = make_batch(positions, slots, segments)
    plan = check(positions, segments, batch, HEADS._replace(scratch=scratch))
    assert plan.scratch_keys == keys
    assert plan.merged == (keys == 0)


def test_what_others_read_too_stays_in_the_slots() -> None:
    positions, slots, segments = parents_and_child(128, [60, 60], 10)
    segments[0].readers.append((128, 3))
    segments.append(Segment([399], [(128, 0)], own=True))
    batch = make_batch([*positions, 9], [*slots, 399], segments)
    plan = check([*positions, 9], segments, batch, HEADS)
    assert plan.scratch_keys == 60 + 10 + 128


def test_plain_decodes_are_one_launch_without_a_merge() -> None:
    segments = [Segment([*range(10 * r, 10 * r + r), 300 + r], [(r, 0)], own=True) for r in range(9)]
    batch = make_batch(list(range(9)), list(range(300, 309)), segments)
    plan = check(list(range(9)), segments, batch, HEADS)
    assert len(plan.groups) == 1
    assert not plan.merged
