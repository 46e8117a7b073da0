"""Pavane: serving for multi-agent LLM workflows."""
