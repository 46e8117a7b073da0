"""Architectures, weights, and the runner: Batch in, tokens out."""
