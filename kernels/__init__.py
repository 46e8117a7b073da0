"""The Batch contract, DAG attention, KV tensors and sampling."""
