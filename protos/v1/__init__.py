"""Generated: see `make protos`."""
