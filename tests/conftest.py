"""The same examples in every run; `--hypothesis-profile=explore` draws new ones."""

import os
from pathlib import Path

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("fixed")

# Before anybody imports triton, whose functions are one or the other from then on.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
