"""Shared by the tests: tiny models, the oracle of message graphs, and a server without a network."""
