"""What a server's runner is made with."""

import re

import pytest
from support.harness import tiny_runner
from support.tiny import tiny_config, tiny_weights

from pavane.server import runners
from pavane.server.config import ConfigError, ServerConfig


@pytest.mark.parametrize(
    ("gigabytes", "told"),
    [
        (1e-9, "--host-cache-gb is 1e-09: a host tier of 1 bytes is too small: a page takes 6144; give more, or 0"),
        (1e6, "--host-cache-gb is 1e+06: there are no 1000000.0 GB of memory: ... ; give less, or 0 for none"),
    ],
)
def test_a_host_cache_that_cannot_be_is_refused(gigabytes: float, told: str) -> None:
    config = tiny_config()
    runner = tiny_runner(config, tiny_weights(config), 16)
    with pytest.raises(ConfigError, match=re.escape(told).replace(r"\.\.\.\ ", ".*")):
        runners._with_tier(runner, ServerConfig(host_cache_gb=gigabytes))
