"""K and V into their slots, and queries and keys into other frames: rotary embedding in the rotate-half layout.

Angles are rows of a `RopeTable`: its cos and sin are float32 [rows, head_dim/2], and position p is row origin + p.
Everything is rotated in float32 and rounded once, to the dtype it is stored in.
"""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel, launched
from pavane.kernels.gpu.fused.quantise import quantised


@kernel
def rotated(left: tl.tensor, right: tl.tensor, cos: tl.tensor, sin: tl.tensor) -> tl.tensor:
    """R(p) of the halves of heads."""
    return left * cos - right * sin, right * cos + left * sin


@launched(anywhere=["positions", "slots"])
def store_kv_kernel(
    k: tl.tensor,
    v: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    origin: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """One row: K rotated at its position, and V, into its slot; quantised unless LARGEST is 0."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    dim = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < HEADS) & (dim < HALF)
    angle = (tl.load(positions + row).to(tl.int64) + origin) * HALF + dim
    c = tl.load(cos + angle, mask=dim < HALF, other=0.0)
    s = tl.load(sin + angle, mask=dim < HALF, other=0.0)
    at = head * (2 * HALF) + dim
    left = tl.load(k + row * k_stride + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(k + row * k_stride + at + HALF, mask=inside, other=0.0).to(tl.float32)
    first = tl.load(v + row * v_stride + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(v + row * v_stride + at + HALF, mask=inside, other=0.0).to(tl.float32)
    left, right = rotated(left, right, c, s)
    if LARGEST > 0:
        left, right = quantised(left, k_scale, LARGEST), quantised(right, k_scale, LARGEST)
        first, second = quantised(first, v_scale, LARGEST), quantised(second, v_scale, LARGEST)
    at += slot * (HEADS * 2 * HALF)
    tl.store(k_cache + at, left.to(k_cache.dtype.element_ty), mask=inside)
    tl.store(k_cache + at + HALF, right.to(k_cache.dtype.element_ty), mask=inside)
    tl.store(v_cache + at, first.to(v_cache.dtype.element_ty), mask=inside)
    tl.store(v_cache + at + HALF, second.to(v_cache.dtype.element_ty), mask=inside)


@launched(counts=["count"], anywhere=["rows", "angles"])
def rotate_heads_kernel(
    x: tl.tensor,
    row_stride: tl.tensor,
    rows: tl.tensor,
    angles: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    origin: tl.tensor,
    out: tl.tensor,
    copied: tl.tensor,
    copy: tl.tensor,
    scale: tl.tensor,
    copy_scale: tl.tensor,
    count: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    COPY: tl.constexpr,
) -> None:
    """BLOCK heads of [count * HEADS], item i being out[i] = scale * R(angles[i]) x[rows[i]]. With COPY also
    copy[i] = copy_scale * copied[rows[i]]."""
    which = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    dim = tl.arange(0, BLOCK_HALF)[None, :]
    item, head = which // HEADS, which % HEADS
    inside = (item < count) & (dim < HALF)
    row = tl.load(rows + item, mask=item < count, other=0).to(tl.int64)
    angle = (tl.load(angles + item, mask=item < count, other=0).to(tl.int64) + origin) * HALF + dim
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    source = row * row_stride + head * (2 * HALF) + dim
    left = tl.load(x + source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + source + HALF, mask=inside, other=0.0).to(tl.float32)
    left, right = rotated(left, right, c, s)
    at = which * (2 * HALF) + dim
    tl.store(out + at, (left * scale).to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + HALF, (right * scale).to(out.dtype.element_ty), mask=inside)
    if COPY:
        first = tl.load(copied + source, mask=inside, other=0.0).to(tl.float32) * copy_scale
        second = tl.load(copied + source + HALF, mask=inside, other=0.0).to(tl.float32) * copy_scale
        tl.store(copy + at, first.to(copy.dtype.element_ty), mask=inside)
        tl.store(copy + at + HALF, second.to(copy.dtype.element_ty), mask=inside)


@launched(counts=["count", "rounds", "capacity"], anywhere=["extents", "starts", "out"])
def expand_extents_kernel(
    extents: tl.tensor,
    starts: tl.tensor,
    count: tl.tensor,
    out: tl.tensor,
    capacity: tl.tensor,
    rounds: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """out[i] = the slot of key i, 0 beyond the last: by bisection for the last extent that begins at or before it."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = tl.zeros([BLOCK], dtype=tl.int32)
    high = tl.zeros([BLOCK], dtype=tl.int32) + count
    for _ in range(rounds):
        middle = (low + high) // 2
        later = tl.load(starts + middle) > i
        high = tl.where(later, middle, high)
        low = tl.where(later, low, middle)
    slot = tl.load(extents + 2 * low) + i - tl.load(starts + low)
    tl.store(out + i, tl.where(i < tl.load(starts + count), slot, 0), mask=i < capacity)
