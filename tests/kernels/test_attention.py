"""The backends (the GPU's with FlashInfer stood in for) against dense attention in float64, on batches made by hand and
by chance."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.gpu_attention import ReadableKV, standing_in
from support.harness import BACKENDS
from support.padding import padded
from support.samples import greedy
from support.tiny import tiny_config, tiny_weights

from pavane.kernels import reference
from pavane.kernels.attention import TorchAttention
from pavane.kernels.batch import NO_TOKEN, Batch
from pavane.kernels.contract import AttentionBackend
from pavane.kernels.kv import BlockedKVStore, KVStore
from pavane.kernels.native_attention import NativeAttention
from pavane.kernels.rope import RopeParameters, RopeTable, rope_frequencies
from pavane.models.decoder import Decoder
from pavane.models.runner import ModelRunner, TorchForward

torch.set_num_threads(1)
SLOTS = 400
LENGTH = 300
HEAD_DIM = 16
FREQUENCIES, _ = rope_frequencies(RopeParameters(10_000.0), HEAD_DIM)
BOTH = pytest.mark.parametrize("batch_invariant", [False, True])


backend = "torch"


@pytest.fixture(scope="module", params=[*BACKENDS, "flashinfer"], autouse=True)
def each_backend(request: pytest.FixtureRequest) -> None:
    global backend
    backend = request.param


@dataclass
class Segment:
    """`readers` are (row, delta); with `own`, the last keys are those of the readers' rows."""

    slots: list[int]
    readers: list[tuple[int, int]]
    own: bool = False


@dataclass
class World:
    """Keys and values of every slot, unrotated, in float64, and the position at which each was encoded."""

    heads: int = 6
    kv_heads: int = 2
    layers: int = 2
    batch_invariant: bool = False
    seed: int = 0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.k = self.random(self.layers, SLOTS, self.kv_heads, HEAD_DIM)
        self.v = self.random(self.layers, SLOTS, self.kv_heads, HEAD_DIM)
        self.at = torch.randint(0, LENGTH, (SLOTS,), generator=self.generator)
        shape = (self.layers, self.kv_heads, SLOTS, HEAD_DIM)
        blocked, plain = BlockedKVStore(*shape, torch.float32), KVStore(*shape)
        device = ReadableKV(*shape, torch.float32)
        self.store: BlockedKVStore | KVStore | ReadableKV = {"native": blocked, "flashinfer": device}.get(
            backend, plain
        )
        for layer in range(self.layers):
            rotated = reference.rope(self.k[layer], self.at, FREQUENCIES)
            self.store.write(layer, rotated.transpose(0, 1), self.v[layer].transpose(0, 1))
        rope = RopeTable(FREQUENCIES, LENGTH)
        self.backend: AttentionBackend[Any] = (
            NativeAttention(blocked, rope, self.heads)
            if backend == "native"
            else standing_in(device, rope, self.heads)
            if backend == "flashinfer"
            else TorchAttention(plain, rope, self.heads, batch_invariant=self.batch_invariant)
        )

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def check(self, positions: list[int], slots: list[int], segments: list[Segment], pad: int = 0) -> None:
        batch = make_batch(positions, slots, segments)
        plan = self.backend.plan(padded(batch, pad) if pad else batch)
        n = len(positions)
        for layer in range(self.layers):
            q = self.random(n, self.heads, HEAD_DIM)
            k, v = self.random(n, self.kv_heads, HEAD_DIM), self.random(n, self.kv_heads, HEAD_DIM)
            untouched = torch.ones(SLOTS, dtype=torch.bool)
            untouched[slots] = False
            before = self.store.read(layer)[0][:, untouched]
            got = self.backend.attend(layer, q.float(), k.float(), v.float(), plan)
            assert got.dtype == torch.float32
            assert got.shape == (n, self.heads * HEAD_DIM)
            assert torch.equal(before, self.store.read(layer)[0][:, untouched]), "a slot of no row was written"
            self.k[layer, slots], self.v[layer, slots] = k, v
            self.at[slots] = torch.tensor(positions)
            expected = torch.stack([self.row(layer, q[r], positions[r], seen(segments, r)) for r in range(n)])
            torch.testing.assert_close(got.double(), expected, atol=3e-5, rtol=0)

    def row(self, layer: int, q: torch.Tensor, position: int, keys: list[tuple[int, int]]) -> torch.Tensor:
        """One query over (slot, delta): each key re-rotated to where it is placed."""
        slots = torch.tensor([slot for slot, _ in keys])
        placed = self.at[slots] + torch.tensor([delta for _, delta in keys])
        visible = torch.ones(1, len(keys), dtype=torch.bool)
        here = torch.tensor([position])
        out = reference.attend(q[None], self.k[layer, slots], self.v[layer, slots], here, placed, visible, FREQUENCIES)
        return out.reshape(-1)


def seen(segments: list[Segment], row: int) -> list[tuple[int, int]]:
    keys = []
    for segment in segments:
        for i, (reader, delta) in enumerate(segment.readers):
            if reader == row:
                last = len(segment.slots) - len(segment.readers) + i + 1 if segment.own else len(segment.slots)
                keys += [(slot, delta) for slot in segment.slots[:last]]
    return keys


def runs(slots: list[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for slot in slots:
        if out and sum(out[-1]) == slot:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((slot, 1))
    return out


def indptr(counts: list[int]) -> npt.NDArray[np.int32]:
    return np.cumsum([0, *counts]).astype(np.int32)


def make_batch(positions: list[int], slots: list[int], segments: list[Segment]) -> Batch:
    n = len(positions)
    extents = [runs(segment.slots) for segment in segments]
    pairs = [pair for segment in segments for pair in segment.readers]
    return Batch(
        n_rows=n,
        tokens=np.zeros(n, dtype=np.int32),
        previous=np.full(n, NO_TOKEN, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        slots=np.array(slots, dtype=np.int32),
        n_segments=len(segments),
        extents=np.array([e for es in extents for e in es], dtype=np.int32).reshape(-1, 2),
        extent_indptr=indptr([len(es) for es in extents]),
        row_indptr=indptr([len(segment.readers) for segment in segments]),
        pair_rows=np.array([row for row, _ in pairs], dtype=np.int32),
        pair_deltas=np.array([delta for _, delta in pairs], dtype=np.int32),
        own=np.array([len(segment.readers) if segment.own else 0 for segment in segments], dtype=np.int32),
        samples=greedy([]),
    )


HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 1), (3, 3)])


@BOTH
@HEADS
def test_one_causal_run_after_what_came_before(heads: int, kv_heads: int, batch_invariant: bool) -> None:
    world = World(heads, kv_heads, batch_invariant=batch_invariant)
    own = list(range(20, 27))
    segment = Segment([*range(10, 20), *own], [(i, 0) for i in range(7)], own=True)
    world.check(list(range(50, 57)), own, [segment])


@BOTH
def test_the_first_token_sees_itself_alone(batch_invariant: bool) -> None:
    World(batch_invariant=batch_invariant).check([0], [5], [Segment([5], [(0, 0)], own=True)])


@BOTH
def test_a_prefill_from_nothing(batch_invariant: bool) -> None:
    own = list(range(100, 112))
    segment = Segment(own, [(i, 0) for i in range(12)], own=True)
    World(batch_invariant=batch_invariant).check(list(range(12)), own, [segment])


@BOTH
def test_extents_in_pieces_also_among_the_own_keys(batch_invariant: bool) -> None:
    own = [60, 61, 200, 10, 11]
    before = [7, 8, 9, 300, 30, 31, 12]
    segment = Segment(before + own, [(i, 0) for i in range(5)], own=True)
    World(batch_invariant=batch_invariant).check([40, 41, 42, 43, 44], own, [segment])


@BOTH
@HEADS
def test_one_row_over_parents_with_different_deltas(heads: int, kv_heads: int, batch_invariant: bool) -> None:
    segments = [
        Segment(list(range(30, 60)), [(0, -40)]),
        Segment([90, 91, 10], [(0, 120)]),
        Segment([1, 2, 3, 350], [(0, 0)], own=True),
    ]
    World(heads, kv_heads, batch_invariant=batch_invariant).check([150], [350], segments)


@BOTH
def test_calls_share_one_segment_each_with_its_own_delta(batch_invariant: bool) -> None:
    shared = [*range(100, 130), 7, 8]
    segments = [
        Segment(shared, [(0, 5), (1, 5), (2, -33), (3, 60), (4, 60)]),
        Segment([210, 211], [(0, 0), (1, 0)], own=True),
        Segment([150, 151, 152, 250], [(2, 0)], own=True),
        Segment([300, 301], [(3, 0), (4, 0)], own=True),
    ]
    positions, slots = [40, 41, 12, 200, 201], [210, 211, 250, 300, 301]
    World(batch_invariant=batch_invariant).check(positions, slots, segments)


@BOTH
def test_rows_without_merge_stand_in_the_batch_beside_rows_with_many(batch_invariant: bool) -> None:
    segments = [
        Segment([5, 6, 7], [(2, 9)]),
        Segment([8, 9], [(2, 11)]),
        Segment([20, 21], [(2, -3)]),
        Segment([40, 41, 42, 100], [(0, 0)], own=True),
        Segment([101], [(1, 0)], own=True),
        Segment([102], [(2, 0)], own=True),
    ]
    World(batch_invariant=batch_invariant).check([30, 0, 77], [100, 101, 102], segments)


@BOTH
def test_pairs_need_not_be_in_the_order_of_rows(batch_invariant: bool) -> None:
    segments = [
        Segment([50, 51, 102], [(2, 0)], own=True),
        Segment([100], [(0, 0)], own=True),
        Segment([60, 101], [(1, 0)], own=True),
    ]
    World(batch_invariant=batch_invariant).check([30, 40, 50], [100, 101, 102], segments)


@BOTH
@pytest.mark.parametrize("readers", [[(1, 4), (0, -2)], [(0, 3), (1, 0), (0, 50)]])
def test_one_segment_alone_with_pairs_in_any_order(readers: list[tuple[int, int]], batch_invariant: bool) -> None:
    segments = [Segment([50, 51, 100, 101], readers)]
    World(batch_invariant=batch_invariant).check([30, 40], [100, 101], segments)


@BOTH
def test_two_rows_of_one_position_each_see_their_own(batch_invariant: bool) -> None:
    segments = [Segment([10, 11, 100], [(0, 0)], own=True), Segment([10, 11, 101], [(1, 0)], own=True)]
    World(batch_invariant=batch_invariant).check([9, 9], [100, 101], segments)


def test_rows_may_read_what_other_rows_of_the_step_write() -> None:
    parent, child = [100, 101, 102], [110, 111]
    segments = [
        Segment(parent, [(0, 0), (1, 0), (2, 0)], own=True),
        Segment(parent, [(3, 20), (4, 20)]),
        Segment(child, [(3, 0), (4, 0)], own=True),
    ]
    World().check([0, 1, 2, 50, 51], parent + child, segments)


def test_large_scores_do_not_overflow_the_merge() -> None:
    world = World()
    for tensor in (world.k, world.store.k):
        tensor *= 60
    segments = [
        Segment(list(range(50)), [(0, 30)]),
        Segment(list(range(60, 70)), [(0, -20)]),
        Segment([200], [(0, 0)], own=True),
    ]
    batch = make_batch([100], [200], segments)
    q, k, v = (world.random(1, heads, HEAD_DIM) for heads in (6, 2, 2))
    got = world.backend.attend(0, q.float() * 10, k.float(), v.float(), world.backend.plan(batch))
    world.k[0, 200], world.v[0, 200], world.at[200] = k[0], v[0], 100
    # Scores of thousands in float32 are exact to about 1e-3 only.
    expected = world.row(0, q[0] * 10, 100, seen(segments, 0))
    torch.testing.assert_close(got[0].double(), expected, atol=2e-2, rtol=0)


def random_step(generator: np.random.Generator) -> tuple[list[int], list[int], list[Segment]]:
    """Calls with runs of rows, parents shared or not, at any distance."""
    free = [int(slot) for slot in generator.permutation(SLOTS)]
    if generator.random() < 0.5:
        free.sort()
    stored = [[free.pop() for _ in range(generator.integers(1, 25))] for _ in range(5)]
    if generator.random() < 0.5:
        stored = [sorted(slots) for slots in stored]
    calls: list[tuple[list[int], int]] = []
    positions: list[int] = []
    slots: list[int] = []
    for _ in range(generator.integers(1, 6)):
        rows = int(generator.integers(1, 6))
        own = [free.pop() for _ in range(rows)]
        at = int(generator.integers(0, LENGTH - rows))
        calls.append((list(range(len(slots), len(slots) + rows)), at))
        positions += range(at, at + rows)
        slots += own
    segments = []
    for parent in stored:
        readers = [rows for rows, _ in calls if generator.random() < 0.5]
        pairs = [(row, delta) for rows in readers for delta in [int(generator.integers(-99, 99))] for row in rows]
        if pairs and generator.random() < 0.7:
            segments.append(Segment(parent, pairs))
        elif pairs:
            segments += [Segment(parent, [pair]) for pair in pairs]
    for rows, _ in calls:
        before = [free.pop() for _ in range(generator.integers(0, 9))]
        segments.append(Segment(before + [slots[r] for r in rows], [(r, 0) for r in rows], own=True))
    if generator.random() < 0.5:
        segments = [segments[i] for i in generator.permutation(len(segments))]
    return positions, slots, segments


@BOTH
@pytest.mark.parametrize("seed", range(8))
def test_random_batches(seed: int, batch_invariant: bool) -> None:
    generator = np.random.default_rng(seed)
    heads, kv_heads = [(6, 2), (4, 1), (3, 3), (8, 4)][seed % 4]
    world = World(heads, kv_heads, batch_invariant=batch_invariant, seed=seed)
    for i in range(6):  # what a step writes, the next may read
        world.check(*random_step(generator), pad=[0, 1, 9][i % 3])


@BOTH
@pytest.mark.parametrize("extra", [1, 16])
def test_padding_changes_no_bit(extra: int, batch_invariant: bool) -> None:
    generator = np.random.default_rng(5)
    for _ in range(5):
        batch = make_batch(*random_step(generator))
        results = []
        for variant in (batch, padded(batch, extra)):
            world = World(batch_invariant=batch_invariant, seed=1)
            q, k, v = (world.random(batch.n_rows, heads, HEAD_DIM).float() for heads in (6, 2, 2))
            results.append((world.backend.attend(0, q, k, v, world.backend.plan(variant)), world.store.k))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_taken_as_they_are(dtype: torch.dtype) -> None:
    own = list(range(20, 24))
    batch = make_batch([3, 4, 5, 6], own, [Segment([1, 2, 3, *own], [(i, 0) for i in range(4)], own=True)])
    results = []
    for convert in (dtype, torch.float32):
        world = World()
        q, k, v = (world.random(4, heads, HEAD_DIM).to(dtype).to(convert) for heads in (6, 2, 2))
        results.append(world.backend.attend(0, q, k, v, world.backend.plan(batch)))
    assert results[0].dtype in (torch.float32, dtype)
    torch.testing.assert_close(results[0].float(), results[1].to(results[0].dtype).float(), atol=1e-6, rtol=2**-7)


# ---- through the runner


def runner(slots: int = 64) -> ModelRunner:
    config = tiny_config()
    model = Decoder(config, tiny_weights(config))
    store = KVStore(config.num_layers, config.num_kv_heads, slots, config.head_dim)
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], config.max_position)
    return ModelRunner(TorchForward(model, TorchAttention(store, rope, config.num_heads)))


def chat_step(tokens: list[list[int]], at: int, previous: list[int] | None = None, order: str = "forward") -> Batch:
    """Call c owns the slots from 20 c on; its rows stand at positions at, at + 1, ... and all have a sample."""
    positions: list[int] = []
    slots: list[int] = []
    segments = []
    for c, line in enumerate(tokens):
        rows = list(range(len(slots), len(slots) + len(line)))
        positions += range(at, at + len(line))
        slots += range(20 * c + at, 20 * c + at + len(line))
        segments.append(Segment(list(range(20 * c, 20 * c + at + len(line))), [(r, 0) for r in rows], own=True))
    ends = [int(end) - 1 for end in np.cumsum([len(line) for line in tokens])]
    batch = make_batch(positions, slots, segments)
    batch.tokens[:] = [token for line in tokens for token in line]
    if previous is not None:
        batch.previous[:] = previous
    return Batch(
        **{
            **{name: getattr(batch, name) for name in Batch.__slots__},
            "samples": greedy(ends if order == "forward" else ends[::-1]),
        }
    )


@pytest.mark.parametrize("pad", [0, 6])
def test_an_input_token_may_be_a_sample_of_the_step_before(pad: int) -> None:
    prompts = [[5, 9, 11], [6, 7, 8]]
    told, asked = runner(), runner()
    first = told.execute(chat_step(prompts, 0))
    assert asked.execute(padded(chat_step(prompts, 0), pad)).tokens.tolist() == first.tokens.tolist()
    assert len(set(first.tokens.tolist())) == 2, "both calls take one token: the test could not tell them apart"
    tokens = first.tokens.tolist()
    for at in range(3, 9):
        known = told.execute(chat_step([[token] for token in tokens], at))
        unknown = asked.execute(padded(chat_step([[0], [0]], at, previous=[0, 1]), pad))
        assert unknown.tokens.tolist() == known.tokens.tolist()
        assert unknown.logprobs.tolist() == known.logprobs.tolist()
        tokens = known.tokens.tolist()


def test_samples_of_the_step_before_are_named_by_their_own_order() -> None:
    """Sample i of a step is not row i: neither in number nor in order."""
    prompts = [[5, 9, 11], [6, 7, 8]]
    told, asked = runner(), runner()
    first = told.execute(chat_step(prompts, 0))
    backwards = asked.execute(chat_step(prompts, 0, order="backward"))
    assert backwards.tokens.tolist() == first.tokens.tolist()[::-1]
    known = told.execute(chat_step([[int(t)] for t in first.tokens], 3))
    mixed = asked.execute(chat_step([[0], [int(first.tokens[1])]], 3, previous=[1, NO_TOKEN]))
    assert mixed.tokens.tolist() == known.tokens.tolist()
    assert mixed.logprobs.tolist() == known.logprobs.tolist()


@pytest.mark.parametrize("extra", [1, 12])
def test_a_padded_step_gives_the_same_through_the_runner(extra: int) -> None:
    prompts = [[5, 9, 11, 40], [6, 7, 8, 12]]
    plain, longer = runner(), runner()
    for at in (0, 4):
        expected, got = plain.execute(chat_step(prompts, at)), longer.execute(padded(chat_step(prompts, at), extra))
        assert got.tokens.tolist() == expected.tokens.tolist()
        assert got.logprobs.tolist() == expected.logprobs.tolist()


def test_a_step_may_have_no_samples() -> None:
    batch = make_batch([0, 1], [0, 1], [Segment([0, 1], [(0, 0), (1, 0)], own=True)])
    result = runner().execute(batch)
    assert len(result.tokens) == len(result.logprobs) == 0
    assert result.forward_s > 0


@BOTH
@pytest.mark.parametrize("pad", [0, 3])
def test_segments_without_readers_are_padding(batch_invariant: bool, pad: int) -> None:
    real = [Segment([7, 8, 9, 30], [(0, 3), (1, -4)]), Segment([50, 51, 100], [(0, 0)], own=True)]
    last = Segment([60, 101], [(1, 0)], own=True)
    empty = Segment([], [])
    segments = [empty, real[0], empty, empty, real[1], last, empty]
    World(batch_invariant=batch_invariant).check([30, 41], [100, 101], segments, pad)
