"""Workflows as benchmarks: recorded once, replayed by every arm with the same tokens, kept run by run."""
