"""What a server's runner is made with."""

import re

import pytest
from support.gpu_attention import standing_in_runner
from support.harness import tiny_runner
from support.tiny import tiny_config, tiny_weights

from pavane.models.errors import ModelError
from pavane.server import runners
from pavane.server.config import ConfigError, ServerConfig

CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)


@pytest.mark.parametrize(
    ("gigabytes", "told"),
    [
        (1e-9, "--host-cache-gb is 1e-09: a host tier of 1 bytes is too small: a page takes 6144; give more, or 0"),
        (1e6, "--host-cache-gb is 1e+06: there are no 1000000.0 GB of memory: ... ; give less, or 0 for none"),
    ],
)
def test_a_host_cache_that_cannot_be_is_refused(gigabytes: float, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told).replace(r"\.\.\.\ ", ".*")):
        runners._with_tier(tiny_runner(CONFIG, WEIGHTS, 16), ServerConfig(host_cache_gb=gigabytes))


def test_memory_that_would_be_locked_has_to_be_there() -> None:
    config = ServerConfig(device="cuda", host_cache_gb=1e6)
    with pytest.raises(ModelError, match=r"--host-cache-gb 1e\+06 takes 1000000.0 GB of memory, .*; give less, or 0"):
        runners._with_tier(standing_in_runner(CONFIG, WEIGHTS, 16), config)


def test_a_gpu_is_taken_to_move_kv_faster_than_a_cpu() -> None:
    """Until it has been seen: what it encodes in the same time is about 30,000 tokens a second."""
    costs = []
    for runner in (
        tiny_runner(CONFIG, WEIGHTS, 16, host_pages=2),
        standing_in_runner(CONFIG, WEIGHTS, 16, host_pages=2),
    ):
        tier = runners.tier_of(runner)
        assert tier is not None
        assert tier.pages == 2
        costs.append(tier.costs.out.seconds_per_token * 1e9)
    assert costs == pytest.approx([6144 / 16 / 2, 6144 / 16 / 20])
