"""Contexts, radix trees, slots, eviction: who may see what, and where its KV lies."""
