"""Fails if the committed stubs are not what the generator makes of the proto. Runs in the generator's environment."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

STUBS = Path("pavane/protos/v1")


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        made = subprocess.run(["make", "--silent", "protos", f"PROTO_OUT={scratch}"], check=False)
        if made.returncode:
            return made.returncode
        names = sorted(path.name for path in (Path(scratch) / STUBS).iterdir())
        _, stale, missing = filecmp.cmpfiles(Path(scratch) / STUBS, Path("src") / STUBS, names, shallow=False)
    if stale or missing or not names:
        which = ", ".join(stale + missing) or "none was made"
        print(f"stubs are not current: {which}; run `make protos`", file=sys.stderr)
        return 1
    print(f"{len(names)} stubs are current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
