"""A server's /metrics, read from outside."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


async def scrape(port: int) -> Mapping[str, float]:
    """Values by name; a sample with labels by its name and their values, as in "pavane_tokens_total encoded"."""
    text = await asyncio.to_thread(fetch, port)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


def fetch(port: int) -> str:
    """The text as it is served on this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text
