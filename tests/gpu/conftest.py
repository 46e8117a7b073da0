"""What needs a GPU: `pytest -m gpu`."""

import pytest

from pavane.models import gpu_check
from pavane.models.errors import ModelError


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    try:
        gpu_check.check(gpu_check.look())
    except ModelError as error:
        pytest.skip(str(error))
