"""The same examples in every run; `--hypothesis-profile=explore` draws new ones."""

import ctypes
import os
import sys

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("fixed")


def _driver_answers() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


# Before anybody imports triton, whose functions are one or the other from then on.
if not _driver_answers():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """A server that a test before has started in this process has set torch's threads to all cores; beside other
    workers these wait for each other, and a test of 6 s took 106."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
