"""Benchmarks: pavane bench."""
