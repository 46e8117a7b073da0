"""Calls and their states, order, budget, and the engine loop."""
