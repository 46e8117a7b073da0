"""KV that leaves its slots and comes back, into any others, is the same to the bit."""

import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch

from pavane.kernels.batch import Int32
from pavane.kernels.carrier import HostCarrier, Leaving
from pavane.kernels.host import CorruptEntryError, HostTier, MissingEntryError, TierFullError
from pavane.kernels.kv import BlockedKVStore, KVStore
from pavane.kernels.pages import PAGE, SlotPages

LAYERS, KV_HEADS, SLOTS = 2, 3, 160
Store = KVStore | BlockedKVStore


def store(kind: str, head_dim: int) -> Store:
    if kind == "rows":
        return KVStore(LAYERS, KV_HEADS, SLOTS, head_dim)
    return BlockedKVStore(LAYERS, KV_HEADS, SLOTS, head_dim, getattr(torch, kind))


class Kept:
    """A tier of `pages` pages and what carries KV there and back."""

    def __init__(self, kv: Store, pages: int) -> None:
        layout = SlotPages(kv.parts())
        self.tier = HostTier(layout.page_bytes, pages * layout.page_bytes + 1)
        self._carrier = HostCarrier(layout)

    def put(self, key: bytes, out: Int32) -> None:
        pages = self.tier.reserve(key, len(slots_of(out)))
        if pages is not None:
            self.tier.store(key, *self._carrier.out([Leaving(pages, out)]).wait().sums)

    def get(self, key: bytes, first: int, back: Int32) -> None:
        self._carrier.back(self.tier.find(key, first, len(slots_of(back))), back, self._carrier.mark())


def randomise(kv: Store, seed: int) -> None:
    """Any bits: among them are numbers that are none."""
    generator = torch.Generator().manual_seed(seed)
    for part in kv.parts():
        part.copy_(torch.randint(-(2**31), 2**31, part.shape, generator=generator, dtype=torch.int32))


def everything(kv: Store) -> torch.Tensor:
    """The bits of K and V, [slots, layers * 2 * kv_heads * head_dim]."""
    layers = [torch.stack(kv.read(layer)) for layer in range(LAYERS)]
    bits = torch.stack(layers).contiguous().view(torch.int16)
    return bits.movedim(-2, 0).flatten(1)


def extents(*pairs: tuple[int, int]) -> Int32:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def slots_of(runs: Int32) -> list[int]:
    return [slot for start, length in runs.tolist() for slot in range(start, start + length)]


def some_extents(rng: random.Random, tokens: int, free: Iterable[int]) -> Int32:
    """Slots for `tokens` tokens out of `free`, in a few runs in any order."""
    left = sorted(free)
    runs: list[tuple[int, int]] = []
    while tokens:
        at = rng.randrange(len(left))
        length = 1
        while (
            length < tokens
            and at + length < len(left)
            and left[at + length] == left[at] + length
            and rng.random() > 0.03
        ):
            length += 1
        runs.append((left[at], length))
        del left[at : at + length]
        tokens -= length
    return extents(*runs)


STORES = [("rows", 24), ("float32", 24), ("float32", 32), ("bfloat16", 24), ("bfloat16", 64)]


@pytest.mark.parametrize(("kind", "head_dim"), STORES)
def test_what_comes_back_is_what_went_out(kind: str, head_dim: int) -> None:
    rng = random.Random(head_dim)
    kv = store(kind, head_dim)
    kept = Kept(kv, 64)
    for round_ in range(30):
        randomise(kv, round_)
        before = everything(kv)
        out = some_extents(rng, rng.randint(1, 70), range(SLOTS))
        tokens = slots_of(out)
        kept.put(b"key", out)
        randomise(kv, 1000 + round_)
        first = rng.randrange(len(tokens))
        back = some_extents(rng, rng.randint(1, len(tokens) - first), range(SLOTS))
        expected = everything(kv)
        expected[slots_of(back)] = before[tokens[first : first + len(slots_of(back))]]
        kept.get(b"key", first, back)
        assert torch.equal(everything(kv), expected), "other bits, or a neighbour was touched"
        kept.tier.drop(b"key")
        assert kept.tier.used == 0


def test_random_verbs_do_what_a_dictionary_does() -> None:
    rng = random.Random(1)
    kv = store("bfloat16", 16)
    kept = Kept(kv, 20)
    tier, page_bytes = kept.tier, SlotPages(kv.parts()).page_bytes
    assert tier.capacity == 20 * page_bytes
    there: dict[bytes, torch.Tensor] = {}
    outcomes = set()
    for step in range(400):
        key = bytes([rng.randrange(8)])
        pages = {k: -(-len(v) // PAGE) for k, v in there.items()}
        match rng.choice(["put", "put", "get", "get", "drop"]):
            case "put":
                randomise(kv, step)
                out = some_extents(rng, rng.randint(1, 120), range(SLOTS))
                tokens = slots_of(out)
                if key not in there and sum(pages.values()) + -(-len(tokens) // PAGE) > 20:
                    with pytest.raises(TierFullError, match=f"KV of {len(tokens)} tokens .entry {key.hex()}"):
                        kept.put(key, out)
                    outcomes.add("full")
                else:
                    kept.put(key, out)
                    outcomes.add("again" if key in there else "put")
                    there.setdefault(key, everything(kv)[tokens])
            case "get":
                back = some_extents(rng, rng.randint(1, 60), range(SLOTS))
                first = rng.randrange(40)
                n = len(slots_of(back))
                before = everything(kv)
                if key not in there or first + n > len(there[key]):
                    with pytest.raises(MissingEntryError, match=f"tokens {first} to {first + n} of entry {key.hex()}"):
                        kept.get(key, first, back)
                    outcomes.add("missing")
                else:
                    kept.get(key, first, back)
                    before[slots_of(back)] = there[key][first : first + n]
                    outcomes.add("got")
                assert torch.equal(everything(kv), before)
            case "drop":
                tier.drop(key)
                there.pop(key, None)
        assert [bytes([i]) in tier for i in range(8)] == [bytes([i]) in there for i in range(8)]
        assert tier.used == sum(-(-len(v) // PAGE) for v in there.values()) * page_bytes
    assert outcomes == {"put", "again", "full", "got", "missing"}


@pytest.mark.parametrize(("page", "first", "noticed"), [(0, 0, True), (1, 20, True), (2, 0, False), (0, 16, False)])
def test_bits_that_changed_are_noticed_before_anything_is_written(page: int, first: int, noticed: bool) -> None:
    """In the pages that are read; `page` has a word that is not what was stored."""
    kv = store("bfloat16", 16)
    randomise(kv, 1)
    kept = Kept(kv, 4)
    kept.put(b"key", extents((3, 40)))
    kept.tier._memory[kept.tier._entries[b"key"].pages[page], 77] ^= 1 << 30
    before = everything(kv)
    back = extents((100, 10), (60, 2))
    if not noticed:
        kept.get(b"key", first, back)
        assert torch.equal(everything(kv)[100:110], before[3 + first : 13 + first])
        return
    with pytest.raises(CorruptEntryError, match=f"page {page} of entry 6b6579"):
        kept.get(b"key", first, back)
    assert torch.equal(everything(kv), before)


def test_words_in_another_order_are_noticed() -> None:
    kv = store("float32", 16)
    randomise(kv, 2)
    kept = Kept(kv, 1)
    kept.put(b"key", extents((0, 16)))
    words = kept.tier._memory.view(torch.int64)
    words[0, [4, 5]] = words[0, [5, 4]]
    with pytest.raises(CorruptEntryError):
        kept.get(b"key", 0, extents((0, 16)))


def test_a_tier_without_a_page_or_its_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="a page takes 1000"):
        HostTier(1000, 999)
    with pytest.raises(MemoryError, match=r"no 4000000000.0 GB of memory"):
        HostTier(1000, 4 * 10**18)


def test_memory_is_locked_as_long_as_the_tier_is_there() -> None:
    locked: list[int] = []

    def pin(memory: torch.Tensor) -> Callable[[], None]:
        locked.append(memory.nbytes)
        return locked.clear

    tier = HostTier(1000, 4500, pin)
    assert locked == [4000]
    assert tier.capacity == 4000
    del tier
    assert locked == []


def test_pages_side_by_side_are_one_piece() -> None:
    """And pages that were given back are taken again in their order."""
    tier = HostTier(64, 64 * 10)
    sizes = {b"a": 3 * PAGE, b"b": PAGE + 1, b"c": 1}
    for key, tokens in sizes.items():
        assert [len(run) for run in tier.reserve(key, tokens) or ()] == [-(-tokens // PAGE)]
    tier.drop(b"b")
    assert [len(run) for run in tier.reserve(b"d", 4 * PAGE) or ()] == [2, 2]
    tier.store(b"d", range(4))
    found = tier.find(b"d", PAGE + 3, 2 * PAGE)
    assert [len(run) for run in found.pages] == [1, 2]
    assert list(found.sums) == [1, 2, 3]
    with pytest.raises(MissingEntryError, match="0 are stored"):
        tier.find(b"a", 0, 1)
