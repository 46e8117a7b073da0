"""Traces: the same for the same seed, graphs that are whole, and files that are wrong."""

import json
import math
from collections import Counter
from statistics import fmean

import pytest

from pavane.bench.trace import Flood, TraceError, make_trace, read_trace, trace_lines

CALL = {"id": "a", "parents": [], "prefill": 3}
ROW = {"at": 0, "tenant": "t", "workflow": "w", "kind": "chat", "calls": [CALL], "groups": []}


def test_the_same_seed_gives_the_same_lines():
    lines = list(trace_lines(make_trace(3, 50)))
    assert lines == list(trace_lines(make_trace(3, 50)))
    assert lines != list(trace_lines(make_trace(4, 50)))


def test_what_is_written_is_read_again(tmp_path):
    trace = make_trace(5, 40, 2.0, 3, Flood("t1", 4))
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(line + "\n" for line in trace_lines(trace)))
    assert read_trace(path) == trace


def test_rates_kinds_and_tenants_are_as_asked():
    trace = make_trace(1, 4000, 5.0, 4, Flood("t2", 10))
    assert trace[-1].at == pytest.approx(4000 / 5.0, rel=0.05)
    kinds, tenants = Counter(w.kind for w in trace), Counter(w.tenant for w in trace)
    assert [kinds[kind] / 4000 for kind in ("debate", "tree", "rag", "chat")] == pytest.approx(
        [0.35, 0.25, 0.2, 0.2], abs=0.02
    )
    assert tenants["t2"] / 4000 == pytest.approx(10 / 13, abs=0.02)
    documents = [c.prefill for w in trace for c in w.calls if w.kind == "rag" and c.id.startswith("d")]
    assert fmean(documents) == pytest.approx(900, rel=0.05)
    assert fmean(map(math.log, documents)) == pytest.approx(math.log(900) - 0.18, abs=0.03)


def test_graphs_are_whole():
    for workflow in make_trace(2, 300):
        known: set[str] = {group.id for group in workflow.groups}
        for call in workflow.calls:
            assert set(call.parents) <= known
            assert call.id not in known
            assert call.prefill > 0 or 1 <= call.decode <= call.max_tokens
            known.add(call.id)
        for group in workflow.groups:
            assert set(group.members) <= known
            assert len(group.members) >= group.need


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: .*one JSON object"),
        ({**ROW, "calls": [{**CALL, "parents": ["z"]}]}, "call 'a' has the parent 'z', which no call before it is"),
        ({**ROW, "calls": [{**CALL, "prefill": -1}]}, "call 'a': prefill is -1; use a number of tokens"),
        ({**ROW, "calls": [{"id": "a", "parents": [], "header": 8, "decode": 9, "max_tokens": 8}]}, "decode 9 of max_"),
        ({**ROW, "calls": [{**CALL, "prefil": 3}]}, "unexpected keyword argument 'prefil'"),
        ({**ROW, "groups": [{"id": "g", "members": ["a"], "need": 2}]}, "group 'g' needs 2 of a"),
        ({k: v for k, v in ROW.items() if k != "tenant"}, "the field 'tenant' is missing"),
    ],
)
def test_lines_that_are_wrong_are_named(tmp_path, line, says):
    path = tmp_path / "trace.jsonl"
    path.write_text(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(TraceError, match=says):
        read_trace(path)


def test_lines_must_be_in_order_and_there(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({**ROW, "at": at}) for at in (2, 1)))
    with pytest.raises(TraceError, match=r"line 2: at is 1\.0, before 2\.0; sort by at"):
        read_trace(path)
    path.write_text("")
    with pytest.raises(TraceError, match="has no line"):
        read_trace(path)


def test_only_a_tenant_that_exists_can_flood():
    with pytest.raises(TraceError, match="flood is of tenant 't9'; the tenants are t0 to t1"):
        make_trace(1, 1, tenants=2, flood=Flood("t9", 2))
