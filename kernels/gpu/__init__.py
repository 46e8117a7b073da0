"""DAG attention, layers and sampling on NVIDIA GPUs."""
