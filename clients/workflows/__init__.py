"""Workflows as short functions on the public client."""
