"""Which attention backend a CPU gets."""

from __future__ import annotations

import logging
from typing import Any

from pavane.kernels.attention import TorchAttention
from pavane.kernels.contract import AttentionBackend
from pavane.kernels.kv import KVStore
from pavane.kernels.native_attention import NativeAttention
from pavane.kernels.native_build import NoNativeKernelError
from pavane.kernels.rope import RopeTable

log = logging.getLogger(__name__)


def cpu_attention(store: KVStore, rope: RopeTable, heads: int, *, batch_invariant: bool) -> AttentionBackend[Any]:
    """The C++ kernel where it can be built, torch elsewhere: the same results up to rounding, in several times the
    time."""
    try:
        return NativeAttention(store, rope, heads)
    except NoNativeKernelError as error:
        log.warning("attention runs in torch, which is slower: %s", error)
        return TorchAttention(store, rope, heads, batch_invariant=batch_invariant)
