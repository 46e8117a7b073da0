"""The wire contract pavane.v1 and its generated stubs."""
