"""What is written down of workflows, and that it is taken up again."""

import json
from dataclasses import replace

import pytest
from support.measured import SETUP, measured, recording, run

from pavane.bench.workflows.journal import Journal, JournalFailed, read
from pavane.bench.workflows.lines import BadRecord, as_line, from_line
from pavane.bench.workflows.records import Diverged, Judged, Trouble


def test_records_survive_the_file():
    records = [
        *measured(2),
        Trouble("c", "vllm", "no answer"),
        Judged("c", "debate", 1, "reuse", ("It is 4.",), ("4",), 1.0, 5, 0.5),
        Diverged("c", "debate", 1, "reuse", "agent1-round1", 0.25, 0.9, {"start": 0.01}),
    ]
    lines = [as_line(record) for record in records]
    assert [from_line(line) for line in lines] == records
    assert [json.loads(line)["kind"] for line in lines[:3]] == ["setup", "recording", "run"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wall": None}, "Run: the field 'wall' must be float, not None"),
        ({"wall": True}, "must be float, not True"),
        ({"calls": [3]}, "the field 'calls' holds 3, which is no object"),
        ({"calls": [{"id": "a"}]}, "TimedCall: the field 'parents' is missing"),
        ({"speed": 1}, "unknown field 'speed'"),
        ({"kind": "walk"}, "'kind' must be one of setup, recording, run, trouble, judged, diverged, not 'walk'"),
    ],
)
def test_what_is_no_record_is_named(change, said):
    line = json.loads(as_line(run(recording(), "exact", 0)))
    with pytest.raises(BadRecord, match=said):
        from_line(json.dumps({**line, **change}))


def test_an_interrupted_file_goes_on_without_its_torn_line(tmp_path):
    path = tmp_path / "out.jsonl"
    first = Journal(path)
    assert not first.begin(SETUP)
    one = recording()
    first.add(one)
    first.add(run(one, "exact", 0))
    whole = path.read_text()
    path.write_text(whole + '{"kind":"run","case":"te')
    again = Journal(path)
    assert again.begin(SETUP)
    assert again.recording(one.case) == one
    again.add(run(one, "reuse", 0))
    assert [r.arm for r in again.runs(one.case)] == ["exact", "reuse"]
    assert read(path) == again.records
    assert path.read_text().startswith(whole)


def test_another_setup_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "out.jsonl"
    Journal(path).begin(SETUP)
    with pytest.raises(JournalFailed, match=r"measured with threads 2, and now it is 1: give another --json"):
        Journal(path).begin(replace(SETUP, threads=1))


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nwithout end")
    with pytest.raises(JournalFailed, match="line 1: not JSON"):
        Journal(path)
    assert path.read_text() == "my notes\nwithout end"
    path.write_text(as_line(recording()) + "\n")
    with pytest.raises(JournalFailed, match="the first line must be the setup"):
        Journal(path).begin(SETUP)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(JournalFailed, match=r"cannot be written: .*No such file or directory"):
        Journal(tmp_path / "no" / "out.jsonl").begin(SETUP)


def test_counts_that_differ_are_seen():
    assert run(recording(), "exact", 0).counted
    assert not run(recording(), "exact", 0, wrong=True).counted
