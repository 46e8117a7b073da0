"""The Python client of Pavane."""
