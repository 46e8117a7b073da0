"""What can be asked for, and what is refused before anything is started."""

import json

import pytest

from pavane.bench.workflows.cases import BadCase, make_cases
from pavane.bench.workflows.figures import SIZES
from pavane.clients.workflows import WORKFLOWS


def test_all_workflows_have_a_case_each():
    cases = make_cases("all", [], None, 1)
    assert [case.kind.name for case in cases] == [*WORKFLOWS]
    assert all(case.all_sizes == SIZES[case.kind.name] for case in cases if case.kind.name in SIZES)
    assert set(SIZES) <= {*WORKFLOWS}


def test_sizes_make_cases_of_their_own():
    cases = make_cases("rag-team", ["agents=2", "agents=3,document_tokens=50"], None, 1)
    assert [(case.sizes.agents, case.documents["document_tokens"]) for case in cases] == [(2, 400), (3, 50)]
    assert len({case.name for case in cases}) == 2
    assert make_cases("debate", [], None, 1, small=True)[0].sizes == WORKFLOWS["debate"].small()


def test_problems_come_from_a_file(tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text("".join(json.dumps({"problem": text}) + "\n" for text in ("1 + 1?", "2 + 2?")))
    (case,) = make_cases("debate", [], path, 2)
    assert case.problem.problem == "2 + 2?"
    assert case.problem_name == "math.jsonl:2"
    with pytest.raises(BadCase, match="there is no problem 3: there are 2"):
        make_cases("debate", [], path, 3)
    path.write_text('{"question": "?"}')
    with pytest.raises(BadCase, match="field 'problem' is missing"):
        make_cases("debate", [], path, 1)


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("debat", [], "there is no workflow 'debat'; known are all, tree-of-thoughts"),
        ("debate", ["agents"], "'agents' is not NAME=NUMBER, as in agents=4,rounds=2"),
        ("debate", ["agents=many"], "'agents=many' is not NAME=NUMBER"),
        ("debate", ["readers=3"], "debate has no 'readers'; it has agents, rounds"),
        ("debate", ["agents=1"], "agents"),
        ("rag-team", ["documents=0"], "documents is 0; it must be at least 1"),
        ("all", ["agents=3"], "sizes and problems belong to one workflow"),
    ],
)
def test_what_cannot_be_is_named(name, sizes, said):
    with pytest.raises(BadCase, match=said):
        make_cases(name, sizes, None, 1)
