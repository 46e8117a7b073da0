"""pavane bench sched at its smallest, as it is called."""

import json
from collections import Counter

import pytest

from pavane.bench.scheduling.fairness import FACTOR, FLOODING, traces
from pavane.bench.scheduling.part import percentile
from pavane.bench.trace import make_trace, trace_lines
from pavane.cli.main import main


def test_parts_print_one_table_and_write_json(tmp_path, capsys):
    path, trace = tmp_path / "sched.json", tmp_path / "trace.jsonl"
    trace.write_text("".join(line + "\n" for line in trace_lines(make_trace(1, 6, 0.1))))
    words = ["bench", "sched", "--quick", "--only", "cache,order", "--trace", str(trace), "--json", str(path)]
    assert main(words) == 0
    parts = json.loads(path.read_text())["parts"]
    assert list(parts) == ["cache", "order"]
    figures = [figure for part in parts.values() for figure in part["figures"]]
    out = capsys.readouterr().out
    assert all(figure["value"] > 0 for figure in figures)
    assert all(figure["what"] in out for figure in figures)
    assert "the trace, mean time of a workflow: graph / fcfs" in out
    assert len(parts["order"]["the trace"]["graph"]["mean_s"]) == 1


def test_a_part_or_trace_that_is_not_there_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "sched", "--only", "cash"])
    assert "there is no part 'cash'; the parts are step, cache," in capsys.readouterr().err
    (tmp_path / "empty").write_text("")
    assert main(["bench", "sched", "--only", "order", "--trace", str(tmp_path / "empty")]) == 1
    assert "has no line" in capsys.readouterr().err


def test_the_flood_differs_from_the_share_in_one_tenant_alone():
    flood, share = traces(3, 400, 2.0)
    others = [w for w in flood if w.tenant != FLOODING]
    assert others == [w for w in share if w.tenant != FLOODING]
    sent, kept = Counter(w.tenant for w in flood), Counter(w.tenant for w in share)
    assert kept[FLOODING] == -(-sent[FLOODING] // FACTOR)
    assert kept.total() == pytest.approx(400, rel=0.15)
    assert kept.total() / share[-1].at == pytest.approx(2.0, rel=0.15)


def test_percentiles_are_values_that_were_seen():
    assert [percentile([3.0, 1.0, 2.0], p) for p in (1, 34, 99, 100)] == [1.0, 2.0, 3.0, 3.0]
    assert percentile([float(i) for i in range(100)], 99) == 98.0


def test_with_load_control_hardly_anything_is_encoded_again(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(line + "\n" for line in trace_lines(make_trace(3, 12, 1.0))))
    path = tmp_path / "sched.json"
    assert main(["bench", "sched", "--only", "eviction", "--trace", str(trace), "--json", str(path)]) == 0
    again = json.loads(path.read_text())["parts"]["eviction"]["reencoded"]
    assert sum(again["lru"]) > 10_000
    assert sum(again["graph"]) < sum(again["lru"])
    assert sum(again["graph, load control"]) < 0.05 * sum(again["lru"])
