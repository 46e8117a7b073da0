"""What counts as right, and what a table makes of it."""

import json

import pytest
from support.measured import SETUP

from pavane.bench.evals.evaluation import questions
from pavane.bench.evals.samples import SAMPLES
from pavane.bench.evals.summary import agreement, divergence, summary
from pavane.bench.evals.tasks import MATH, NAMED, TASKS, BadLine, boxed, covered, math_answer, named, spelled
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import Diverged, Judged
from pavane.clients.workflows import WORKFLOWS


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{12}.", "12"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"),
        (r"\boxed{never closed", None),
        ("12", None),
    ],
)
def test_the_last_box_counts(text, inside):
    assert boxed(text) == inside


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac 12"),
        (r"\frac{3}{6}", "0.5"),
        ("1,250", "1250"),
        (r"\$12.50", "12.5"),
        (r"50\%", "50"),
        (r"\text{ellipse}", "ellipse"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"90^\circ", "90"),
        ("7.", "7"),
    ],
)
def test_equal_answers_are_spelled_alike(one, other):
    assert spelled(one) == spelled(other)


@pytest.mark.parametrize(
    ("one", "other"), [("12", "21"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("(1,2)", "(12)"), ("x", "y")]
)
def test_other_answers_are_not(one, other):
    assert spelled(one) != spelled(other)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("He has 3 left, so 1,071 in all.", "1071"), ("-4", "-4"), ("2/4 of it", "1/2"), ("none", ""), ("1/0", "1/0")],
)
def test_without_a_box_the_last_number_counts(text, answer):
    assert math_answer(text) == answer


def test_math_needs_something_to_compare_with():
    assert MATH.reference({"solution": r"... \boxed{7}"}) == ["7"]
    assert MATH.reference({"answer": 7, "solution": "no box"}) == ["7"]
    assert MATH.score("It is 7.", ["7"]) == 1
    assert MATH.score("It is 8.", ["7"]) == 0
    with pytest.raises(BadLine, match="needs the field 'answer', or 'solution'"):
        MATH.reference({"problem": "?", "answer": True})


def test_words_are_covered_inflected_but_not_inside_others():
    text = "The bakers wrapped two parties' bikes; she carries a letterbox and dances."
    assert covered(text, ["baker", "wrap", "party", "carry", "dance"]) == 1
    assert covered(text, ["letter", "ant", "bike", "box"]) == 0.25


def test_names_count_as_whole_words_in_any_spelling():
    assert named("It is Oslo, and the spider has 8.", ["oslo", "eight|8"]) == 1
    assert named("Osloite has 18", ["Oslo", "8"]) == 0
    assert NAMED.reference({"answer": "The Hague"}) == ["The Hague"]
    with pytest.raises(BadLine, match="'answers' must be a text or a list of texts"):
        NAMED.reference({"answers": []})


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_problems_of_our_own(name):
    found = questions(WORKFLOWS[name], None, None)
    assert len(found) == len(SAMPLES[name]) >= 2
    assert [one.number for one in found] == [*range(1, len(found) + 1)]


def test_problems_of_a_file_are_read_as_far_as_asked(tmp_path):
    path = tmp_path / "math.jsonl"
    lines = [{"problem": "1 + 1?", "solution": r"\boxed{2}"}, {"problem": "no answer"}, {"answer": 3}]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    (one,) = questions(WORKFLOWS["debate"], path, 1)
    assert (one.problem.problem, one.reference) == ("1 + 1?", ["2"])
    with pytest.raises(BadLine, match=r"math\.jsonl:2: a math problem needs"):
        questions(WORKFLOWS["debate"], path, None)
    path.write_text("{")
    with pytest.raises(BadLine, match=r"math\.jsonl:1: not JSON"):
        questions(WORKFLOWS["debate"], path, None)
    path.write_text("")
    with pytest.raises(BadLine, match="has no problems"):
        questions(WORKFLOWS["debate"], path, None)


def judged(problem, mode, answers, score):
    return Judged("debate x", "debate", problem, mode, answers, answers, score, 10, 1.0)


def test_the_table_has_scores_differences_and_agreement():
    records = [
        SETUP,
        judged(1, "exact", ("4", "4"), 1.0),
        judged(1, "reuse", ("4", "5"), 0.5),
        judged(2, "exact", ("7", "7"), 0.0),
        judged(2, "reuse", ("7", "7"), 0.0),
        Diverged("debate x", "debate", 1, "reuse", "b", 0.3, 0.8, {"a": 0.2, "s": 0.0}),
        Diverged("debate x", "debate", 2, "reuse", "b", 0.1, 1.0, {"a": 0.1, "s": 0.0}),
    ]
    journal = Journal.of(records)
    lines = summary(journal, ["debate x"]).splitlines()
    assert lines[2].split("  ")[0] == "debate"
    assert "0.50 (0.00 to 1.00)" in lines[2]
    for shown in ("0.25 (0.00 to 0.50)", "-0.25 (-0.50 to 0.00)", "0.75 (0.50 to 1.00)", "0.20 (0.10 to 0.30)", "0.90"):
        assert shown in lines[3]
    assert lines[4] == "debate, KL that an exact edge would save: b reads a: 0.150, b reads s: 0.000"
    assert divergence(journal) == {"debate": {("b", "a"): pytest.approx(0.15), ("b", "s"): 0.0}}
    for nothing in ((), ("",)):
        assert agreement(judged(1, "exact", nothing, 0.0), judged(1, "reuse", nothing, 0.0)) == 0
    assert agreement(judged(1, "exact", ("4", "4"), 1.0), judged(1, "reuse", (), 0.0)) == 0
