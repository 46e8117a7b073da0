"""The benchmark of one GPU, at small sizes on a CPU: what it says, and what it refuses."""

import json

import jsonschema
import pytest
import torch

from pavane.bench.gpu import __main__ as command
from pavane.bench.gpu import float8
from pavane.bench.gpu.calls import Calls
from pavane.bench.gpu.card import Card
from pavane.bench.gpu.engine import Engine, EngineFailed
from pavane.bench.gpu.graphs import debate, rag, tree
from pavane.bench.gpu.models import open_model
from pavane.bench.gpu.sizes import FULL, SMALL
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.workflows import long, play, rows, short
from pavane.scheduler.spec import CallSpec

CPU = torch.device("cpu")
NUMBER = {"type": ["number", "null"]}
ROW = {
    "type": "object",
    "required": ["section", "what", "state", "value", "ours", "against", "bar", "met", "reason"],
    "additionalProperties": False,
    "properties": {
        "section": {"type": "string"},
        "what": {"type": "string"},
        "state": {"enum": ["measured", "not run", "failed"]},
        "value": NUMBER,
        "ours": {"type": "string"},
        "against": {"type": "string"},
        "bar": {"type": ["object", "null"], "required": ["sign", "limit"]},
        "met": {"type": ["boolean", "null"]},
        "reason": {"type": "string"},
    },
    "if": {"properties": {"state": {"const": "measured"}}},
    "then": {"properties": {"value": {"type": "number"}}},
    "else": {"properties": {"value": {"type": "null"}, "reason": {"minLength": 1}}},
}
SCHEMA = {
    "type": "object",
    "required": ["bench", "rows", "data", "errors", "seconds", "small", "machine"],
    "properties": {
        "bench": {"enum": ["gpu", "gpu spike"]},
        "rows": {"type": "array", "items": ROW, "minItems": 1},
        "data": {"type": "object"},
        "errors": {"type": "object", "additionalProperties": {"type": "string"}},
        "seconds": {"type": "object", "additionalProperties": {"type": "number"}},
        "small": {"type": "boolean"},
    },
}


def written(path) -> dict:
    found = json.loads(path.read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def test_one_command_gives_one_table_and_one_file(tmp_path, capsys) -> None:
    path = tmp_path / "gpu.json"
    assert command.main(["--device", "cpu", "--small", "--json", str(path)]) == 0
    found = written(path)
    assert found["errors"] == {}
    state = {row["what"]: row["state"] for row in found["rows"]}
    missing = {what for what, state in state.items() if state != "measured"}
    assert missing == {
        "captured decode steps / the same launched one by one: relative error",
        "drawn tokens that the CPU draws as well, of 256",
        "attention, 64 plain conversations of 1k / FlashInfer's decode wrapper",
        *(row.what for row in float8.SECTION.rows),
        *(row["what"] for row in found["rows"] if row["section"] == "invariant"),
    }
    (error,) = [row for row in found["rows"] if row["section"] == "correctness" and row["state"] == "measured"]
    assert error["value"] < 1e-5
    assert found["data"]["card"]["torch"] == torch.__version__
    shown = capsys.readouterr().out
    assert "sizes too small" in shown
    assert all(what in shown for what in state)
    assert shown.count("not run: ") == len(missing)


def test_a_spike_without_a_gpu_says_of_each_row_that_it_was_not_run(tmp_path, capsys) -> None:
    path = tmp_path / "spike.json"
    assert command.main(["spike", "--device", "cpu", "--small", "--json", str(path)]) == 0
    found = written(path)
    states = {row["section"]: row["state"] for row in found["rows"]}
    assert states["card"] == states["small operations"] == "measured"
    assert {section for section, state in states.items() if state == "not run"} == {
        "jit", "segments", "merging", "crossover", "graphs", "parts", "planning",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no GPU: "),
        (["--device", "cpu"], "--device cpu needs --small"),
        (["--device", "cpu", "--small", "--only", "decode,prefil"], "there is no section 'prefil'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, text, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(arguments) == 2
    told = capsys.readouterr().err
    assert text in told
    assert told.count("\n") == 1


def test_sections_are_chosen_and_have_the_cards_rates_before_them(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    assert command.main(["--device", "cpu", "--small", "--only", "decode", "--json", str(path)]) == 0
    states = {row["section"]: row["state"] for row in written(path)["rows"]}
    assert [section for section, state in states.items() if state == "measured"] == ["card", "decode"]


def test_without_time_nothing_begins(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    assert command.main(["--device", "cpu", "--small", "--seconds", "1", "--json", str(path)]) == 0
    found = written(path)
    late = [row for row in found["rows"] if row["section"] == "decode"]
    assert all(row["state"] == "not run" and "s are left" in row["reason"] for row in late)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(open_model(SMALL, CPU), budget=64)


def test_steps_that_decode_are_told_from_others(engine: Engine) -> None:
    with engine.workflow():
        engine.submit([engine.calls.answer(f"c{i}", 20, header=5 + i) for i in range(3)])
        steps = engine.decoding(3, 4)
    assert [(step.batch.n_rows, step.batch.samples.count) for step in steps] == [(3, 3)] * 4
    with engine.workflow():
        engine.submit([engine.calls.answer("c0", 3)])
        with pytest.raises(EngineFailed, match="3 calls never decoded together"):
            engine.decoding(3, 1)


def test_steps_launched_ahead_end_one_after_the_other(engine: Engine) -> None:
    with engine.workflow():
        engine.submit([engine.calls.answer(f"c{i}", 20, header=5 + i) for i in range(3)])
        intervals = engine.intervals(3, 6)
        assert len(intervals) == 6
        assert min(intervals) > 0
        engine.run()
        assert len(engine.ended) == 3
    with engine.workflow():
        engine.submit([engine.calls.answer("c0", 3)])
        with pytest.raises(EngineFailed, match="3 calls never decoded together: they have ended"):
            engine.intervals(3, 1)


def test_a_workflow_reads_what_is_cached_or_encodes_it_anew(engine: Engine) -> None:
    reuse, exact = (play(engine, rag, SMALL, exact=each) for each in (False, True))
    read = SMALL.rag_documents * SMALL.rag_document
    # EXACT: the documents are lazy, and each order of them is another path.
    assert exact.rows - reuse.rows == (SMALL.rag_agents - 1) * read
    with engine.workflow():
        engine.submit(rag(engine.calls, SMALL, exact=False))
        engine.run()
        used = [outcome.receipt for id, outcome in engine.ended.items() if id.startswith("a")]
        # Each document was encoded where the first of a call's documents stands.
        assert {(r.in_place, r.repositioned) for r in used} == {(SMALL.rag_document, read - SMALL.rag_document)}
        assert all(receipt.generated == SMALL.rag_answer for receipt in used)


def edges(graph: list[CallSpec]) -> int:
    return sum(len(call.parents) for call in graph)


def test_graphs_have_the_calls_of_their_workflows() -> None:
    calls = Calls(FULL.config.vocab_size)
    graph = debate(calls, 5, FULL, exact=False)
    assert (len(graph), edges(graph)) == (1 + 3 * 5, 5 + 2 * 5 * 6)
    graph = tree(calls, 8, 4, FULL, exact=True)
    assert (len(graph), edges(graph)) == (1 + 2 * 12, 8 + 4 * 9 + 8 * 2 + 4 * 10)
    assert all(parent.exact for call in graph for parent in call.parents)
    graph = rag(calls, FULL, exact=False)
    assert (len(graph), edges(graph)) == (16, 64)
    texts = [call.tokens for call in graph if call.decode is None]
    assert {len(text) for text in texts} == {1024}
    assert len({text[:2] for text in texts}) == 8


def test_every_figure_of_the_workflows_has_its_row() -> None:
    found = [*rows(short(FULL)), *rows(long(FULL))]
    assert len(found) == len({row.what for row in found}) == 2 * (6 + 2 + 1)
    assert sum(row.bar is not None for row in found) == 10
    assert [row.what[:10] for row in found[6::2]] == [f"debate A={agents}" for agents in (3, 8, 7, 6, 5, 4)]


def test_a_model_that_does_not_open_is_tried_once() -> None:
    tried = []

    def opener(sizes, device):
        tried.append(device)
        raise MemoryError("too large")

    subject = Subject(Card(CPU, True), SMALL, opener)
    with pytest.raises(MemoryError):
        subject.engine()
    with pytest.raises(RuntimeError, match="could not be opened: MemoryError: too large"):
        subject.engine()
    assert tried == [CPU]
