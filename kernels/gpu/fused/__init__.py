"""The kernels of `TritonOps`, one file for each group."""
