"""The gRPC server: config, wiring, text, metrics, lifecycle."""
