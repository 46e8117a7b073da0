"""Runs mypy and fails if it checked fewer files than it should: a wrong path must not pass as a clean result."""

import argparse
import re
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floor", type=int, required=True)
    floor = parser.parse_args().floor
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="")
    found = re.search(r"(?:no issues found in|checked) (\d+) source files?", done.stdout)
    if done.returncode == 0 and (found is None or int(found[1]) < floor):
        print(f"mypy checked {found[1] if found else 'no'} files, expected at least {floor}", file=sys.stderr)
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
