"""Benchmarks on one GPU: engine and kernels in one process, random weights of a real model's shape."""
