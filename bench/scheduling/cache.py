"""What the cache costs: a long prompt matched and inserted, spans evicted, with few and with many messages stored."""

from __future__ import annotations

import gc
import random
import time
from statistics import median

from pavane.bench.report import Figure, at_most
from pavane.bench.scheduling.part import Found, Options, Progress
from pavane.bench.simulation.system import System
from pavane.bench.simulation.tokens import FIRST, ORDINARY
from pavane.cache import GraphCache
from pavane.server import memory

PROMPT, SHARED, NODES = 4_096, 3_072, 40  # tokens; nodes of the shared prefix
SPANS, SPAN_TOKENS = 1_000, 32  # that are evicted
FEW, MANY = 1_000, 100_000  # messages stored
REPEAT = 30
MATCH_BAR, EVICT_BAR, GROWTH_BAR = at_most(1.5), at_most(5.0), at_most(2.0)


def measure(options: Options, progress: Progress) -> Found:
    many = 2_000 if options.quick else MANY
    repeat = 5 if options.quick else REPEAT
    times = {known: _times(known, repeat) for known in (min(FEW, many), many)}
    for known, parts in times.items():
        each = ", ".join(f"{name} {median(ms):.2f} ms" for name, ms in parts.items())
        progress(f"  cache, {known} messages stored: {each}")
    small, large = times.values()
    figures = []
    for name, bar in (("shared", MATCH_BAR), ("new", MATCH_BAR), ("evict", EVICT_BAR)):
        what = {
            "shared": f"match + insert {PROMPT} tokens, {SHARED} of them found in {NODES} nodes: ms",
            "new": f"match + insert {PROMPT} tokens, nothing found: ms",
            "evict": f"evict {SPANS} spans: ms",
        }[name]
        now, before = median(large[name]), median(small[name])
        figures.append(Figure(what, now, bar, f"{now:.2f} ms"))
        figures.append(
            Figure(
                f"{name}: {many} messages stored / {FEW}", now / before, GROWTH_BAR, f"{now:.2f} ms", f"{before:.2f} ms"
            )
        )
    return Found(figures, {"cache_ms": times})


def _times(known: int, repeat: int) -> dict[str, list[float]]:
    rng = random.Random(0)
    cache = System().cache()
    _store(cache, [_text(rng, SPAN_TOKENS) for _ in range(known)])
    prefix = _text(rng, SHARED)
    for end in range(SHARED // NODES, SHARED, SHARED // NODES):  # each of these splits the path once more
        _store(cache, [[*prefix[:end], *_text(rng, 4)]])
    _store(cache, [prefix])
    times: dict[str, list[float]] = {"shared": [], "new": [], "evict": []}
    memory.settle()
    for _ in range(repeat):
        times["shared"].append(_inserted(cache, prefix + _text(rng, PROMPT - SHARED)))
        times["new"].append(_inserted(cache, _text(rng, PROMPT)))
    for _ in range(max(1, min(repeat, known // SPANS // 2))):
        before = cache.pool.free
        began = time.perf_counter()
        freed = cache.evict(SPANS * SPAN_TOKENS)
        times["evict"].append((time.perf_counter() - began) * 1000)
        assert cache.pool.free - before == freed >= SPANS * SPAN_TOKENS
    gc.unfreeze()
    return times


def _inserted(cache: GraphCache, tokens: list[int]) -> float:
    """Milliseconds that finding a prompt and making the rest of its path takes."""
    began = time.perf_counter()
    span = cache.extend(cache.position("", (), 0).node, tokens)
    took = (time.perf_counter() - began) * 1000
    cache.retain(span)
    cache.release(span)
    return took


def _store(cache: GraphCache, texts: list[list[int]]) -> None:
    """Encodes and forgets them: their KV stays, idle."""
    for text in texts:
        span = cache.extend(cache.position("", (), 0).node, text)
        cache.retain(span)
        needs = cache.requirements([span])
        assert cache.acquire(needs, text)
        for part in needs:
            for node in part.nodes():
                cache.fill(node, len(node) - node.filled)
        cache.abandon(needs, text)
        cache.release(span)


def _text(rng: random.Random, count: int) -> list[int]:
    return rng.choices(range(FIRST, FIRST + ORDINARY), k=count)
