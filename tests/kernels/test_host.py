"""KV that leaves its slots and comes back, into any others, is the same to the bit."""

import random
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from pavane.kernels.batch import Int32
from pavane.kernels.host import CorruptEntryError, HostTier, MissingEntryError, TierFullError
from pavane.kernels.kv import BlockedKVStore, KVStore
from pavane.kernels.pages import PAGE, SlotPages

LAYERS, KV_HEADS, SLOTS = 2, 3, 160
Store = KVStore | BlockedKVStore


def store(kind: str, head_dim: int) -> Store:
    if kind == "rows":
        return KVStore(LAYERS, KV_HEADS, SLOTS, head_dim)
    return BlockedKVStore(LAYERS, KV_HEADS, SLOTS, head_dim, getattr(torch, kind))


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
    tier = HostTier(SlotPages(kv.parts()), 64 * SlotPages(kv.parts()).page_bytes)
    for round_ in range(30):
        randomise(kv, round_)
        before = everything(kv)
        out = some_extents(rng, rng.randint(1, 70), range(SLOTS))
        tokens = slots_of(out)
        tier.put(b"key", out)
        randomise(kv, 1000 + round_)
        first = rng.randrange(len(tokens))
        back = some_extents(rng, rng.randint(1, len(tokens) - first), range(SLOTS))
        expected = everything(kv)
        expected[slots_of(back)] = before[tokens[first : first + len(slots_of(back))]]
        tier.get(b"key", first, back)
        assert torch.equal(everything(kv), expected), "other bits, or a neighbour was touched"
        tier.drop(b"key")
        assert tier.used == 0


def test_random_verbs_do_what_a_dictionary_does() -> None:
    rng = random.Random(1)
    kv = store("bfloat16", 16)
    layout = SlotPages(kv.parts())
    tier = HostTier(layout, 20 * layout.page_bytes + 1)
    assert tier.capacity == 20 * layout.page_bytes
    kept: dict[bytes, torch.Tensor] = {}
    outcomes = set()
    for step in range(400):
        key = bytes([rng.randrange(8)])
        pages = {k: -(-len(v) // PAGE) for k, v in kept.items()}
        match rng.choice(["put", "put", "get", "get", "drop"]):
            case "put":
                randomise(kv, step)
                out = some_extents(rng, rng.randint(1, 120), range(SLOTS))
                tokens = slots_of(out)
                if key not in kept and sum(pages.values()) + -(-len(tokens) // PAGE) > 20:
                    with pytest.raises(TierFullError, match=f"KV of {len(tokens)} tokens .entry {key.hex()}"):
                        tier.put(key, out)
                    outcomes.add("full")
                else:
                    tier.put(key, out)
                    outcomes.add("again" if key in kept else "put")
                    kept.setdefault(key, everything(kv)[tokens])
            case "get":
                back = some_extents(rng, rng.randint(1, 60), range(SLOTS))
                first = rng.randrange(40)
                n = len(slots_of(back))
                before = everything(kv)
                if key not in kept or first + n > len(kept[key]):
                    with pytest.raises(MissingEntryError, match=f"tokens {first} to {first + n} of entry {key.hex()}"):
                        tier.get(key, first, back)
                    outcomes.add("missing")
                else:
                    tier.get(key, first, back)
                    before[slots_of(back)] = kept[key][first : first + n]
                    outcomes.add("got")
                assert torch.equal(everything(kv), before)
            case "drop":
                tier.drop(key)
                kept.pop(key, None)
        assert [bytes([i]) in tier for i in range(8)] == [bytes([i]) in kept for i in range(8)]
        assert tier.used == sum(-(-len(v) // PAGE) for v in kept.values()) * layout.page_bytes
    assert outcomes == {"put", "again", "full", "got", "missing"}


@pytest.mark.parametrize(("page", "first", "noticed"), [(0, 0, True), (1, 20, True), (2, 0, False), (0, 16, False)])
def test_bits_that_changed_are_noticed_before_anything_is_written(page: int, first: int, noticed: bool) -> None:
    """In the pages that are read; `page` has a word that is not what was stored."""
    kv = store("bfloat16", 16)
    randomise(kv, 1)
    layout = SlotPages(kv.parts())
    tier = HostTier(layout, 4 * layout.page_bytes)
    tier.put(b"key", extents((3, 40)))
    tier._memory[tier._entries[b"key"].pages[page], 77] ^= 1 << 30
    before = everything(kv)
    back = extents((100, 10), (60, 2))
    if not noticed:
        tier.get(b"key", first, back)
        assert torch.equal(everything(kv)[100:110], before[3 + first : 13 + first])
        return
    with pytest.raises(CorruptEntryError, match=f"page {page} of entry 6b6579"):
        tier.get(b"key", first, back)
    assert torch.equal(everything(kv), before)


def test_words_in_another_order_are_noticed() -> None:
    kv = store("float32", 16)
    randomise(kv, 2)
    layout = SlotPages(kv.parts())
    tier = HostTier(layout, layout.page_bytes)
    tier.put(b"key", extents((0, 16)))
    tier._words[0, [4, 5]] = tier._words[0, [5, 4]]
    with pytest.raises(CorruptEntryError):
        tier.get(b"key", 0, extents((0, 16)))


def test_a_tier_without_a_page_is_refused() -> None:
    layout = SlotPages(store("float32", 16).parts())
    with pytest.raises(ValueError, match=f"a page takes {layout.page_bytes}"):
        HostTier(layout, layout.page_bytes - 1)
