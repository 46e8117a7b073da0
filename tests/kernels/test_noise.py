"""Philox4x32-10 against the known answers of the Random123 distribution, and the numbers made of it."""

import numpy as np
import numpy.typing as npt
import pytest

from pavane.kernels.noise import philox, uniform

Words = tuple[int, ...]

# kat_vectors, "philox4x32 10": counter, key, result.
KNOWN: list[tuple[Words, Words, Words]] = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
EDGES = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1]


def plain_philox(counter: Words, key: Words) -> Words:
    """The definition in whole numbers of any size, for all four words of the counter."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def words(seed: int, counter: int) -> Words:
    return plain_philox((counter % 2**32, counter >> 32, 0, 0), (seed % 2**32, seed >> 32))


def seeds_and_counters(count: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    generator = np.random.default_rng(seed)
    pairs = generator.integers(0, 2**64, (2, count), dtype=np.uint64)
    return pairs[0], pairs[1]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_definition_gives_the_known_answers(counter: Words, key: Words, result: Words) -> None:
    assert plain_philox(counter, key) == result


def test_zero_gives_the_known_answer() -> None:
    zero = np.zeros(1, dtype=np.uint64)
    assert tuple(int(word[0]) for word in philox(zero, zero)) == KNOWN[0][2]


def test_any_seed_and_counter_give_the_defined_words() -> None:
    seeds, counters = seeds_and_counters(500, 0)
    grid = np.array([(a, b) for a in EDGES for b in EDGES], dtype=np.uint64)
    seeds, counters = np.concatenate([seeds, grid[:, 0]]), np.concatenate([counters, grid[:, 1]])
    got = np.stack(philox(seeds, counters), axis=1).tolist()
    assert [tuple(row) for row in got] == [words(int(s), int(c)) for s, c in zip(seeds, counters, strict=True)]


def test_uniform_is_the_first_53_bits() -> None:
    seeds, counters = seeds_and_counters(300, 1)
    counters >>= np.uint64(1)  # non-negative as int64
    got = uniform(seeds, counters.astype(np.int64))
    for value, seed, counter in zip(got.tolist(), seeds, counters, strict=True):
        x0, x1, _, _ = words(int(seed), int(counter))
        assert value == (((x0 >> 5) << 26) + (x1 >> 6)) / 2**53


def test_an_element_does_not_depend_on_the_others() -> None:
    seeds, counters = seeds_and_counters(64, 2)
    positions = (counters % np.uint64(1000)).astype(np.int64)
    together = uniform(seeds, positions)
    order = np.random.default_rng(3).permutation(64)
    assert uniform(seeds[order], positions[order]).tolist() == together[order].tolist()
    for i in range(64):
        assert uniform(seeds[i : i + 1], positions[i : i + 1])[0] == together[i]


@pytest.mark.parametrize("along", ["counters", "seeds"])
def test_numbers_are_uniform_and_uncorrelated(along: str) -> None:
    count = 100_000
    line, fixed = np.arange(count), np.full(count, 7)
    seeds, counters = (fixed, line) if along == "counters" else (line, fixed)
    numbers = uniform(seeds.astype(np.uint64), counters.astype(np.int64))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    expected = count / 100
    chi_square = ((np.histogram(numbers, 100, (0, 1))[0] - expected) ** 2 / expected).sum()
    assert 50 < chi_square < 170  # 99 degrees of freedom: mean 99, standard deviation 14
    neighbours = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(neighbours) < 4 / count**0.5


def test_neighbouring_seeds_and_counters_share_no_number() -> None:
    seeds, counters = (axis.ravel() for axis in np.meshgrid(np.arange(300), np.arange(300)))
    numbers = uniform(seeds.astype(np.uint64), counters.astype(np.int64))
    assert len(set(numbers.tolist())) == numbers.size
