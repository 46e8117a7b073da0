"""All comparisons at their smallest, as they are called, on a real server."""

import json
import subprocess
import sys

BENCHES = ["decode", "prefill", "sharing", "debate", "chat", "overhead"]


def test_all_print_one_table_and_write_json(tmp_path):
    path = tmp_path / "all.json"
    command = [sys.executable, "-m", "pavane.cli.main", "bench", "all", "--quick", "--peer", "none", "--threads", "1"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [bench["bench"] for bench in found["benches"]] == BENCHES
    figures = [figure for bench in found["benches"] for figure in bench["figures"]]
    assert all(figure["value"] > 0 for figure in figures)
    head, _, rows = done.stdout.strip().partition("\n\n")
    assert "1 thread each" in head
    assert [line.split("  ")[0] for line in rows.splitlines()[2:]] == [figure["what"] for figure in figures]
    debate = found["benches"][3]["modes"]["reuse"]
    assert debate["tokens"] == debate["predicted"]
