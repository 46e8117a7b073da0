"""What is wrong with the arguments of a workflow is said in words, before anything is submitted."""

import dataclasses
import json
import tomllib

import pytest

from pavane.clients.errors import CallFailed
from pavane.clients.workflows import WORKFLOWS, Setting
from pavane.clients.workflows.branch_solve_merge import Words, split
from pavane.clients.workflows.debate import DebateSizes
from pavane.clients.workflows.decisions import decision, field_of
from pavane.clients.workflows.multi_question import AnswerSizes, Questions
from pavane.clients.workflows.prisoners import Dilemma
from pavane.clients.workflows.problem import TextProblem, load_problems
from pavane.clients.workflows.prompts import check_prompts, dump_prompts, fill, load_prompts
from pavane.clients.workflows.rag_team import Reading
from pavane.clients.workflows.tree_of_thoughts import TreeSizes, choice

KINDS = list(WORKFLOWS.values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_every_workflow_ships(kind):
    assert "←" in kind.tutorial
    assert len(kind.sample_problems()) >= 2
    for problem in kind.sample_problems():
        line = json.loads(json.dumps(dataclasses.asdict(problem)))
        assert kind.problem.from_json({"id": 7, **line}) == problem
        assert kind.problem.from_text(json.dumps(line)) == problem
    assert tomllib.loads(dump_prompts(kind.prompts)) == kind.prompts
    assert kind.small().longest() < kind.sizes().longest()
    assert all(field.metadata["about"] for field in dataclasses.fields(kind.sizes))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DebateSizes(agents=0), "agents must be from 2 to 1000, not 0"),
        (lambda: DebateSizes(answer_tokens=0), "answer_tokens must be from 1 to"),
        (lambda: DebateSizes(rounds=1.5), "rounds must be an integer, not 1.5"),
        (lambda: TreeSizes(votes=3, need=4), "need is 4, but there are only 3 votes"),
        (lambda: Setting(fidelity="fast"), "fidelity must be one of reuse, exact, not 'fast'"),
        (lambda: Setting(layout="heap"), "layout must be one of packed, as_encoded, not 'heap'"),
        (lambda: Setting(temperature=-1), "temperature must be from 0 to 100, not -1"),
        (lambda: Setting(seed=-1), "seed must be from 0 to"),
        (lambda: TextProblem(" "), "problem is empty"),
        (lambda: Words(("a", "b", "a")), "concepts\\[2\\] 'a' is there twice"),
        (lambda: Questions(("a",)), "questions has 1 texts; at least 2"),
        (lambda: Questions(("a", "")), "questions\\[1\\] is empty"),
        (lambda: TextProblem.from_json({"text": "?"}), "field 'problem' is missing; a problem looks like"),
        (lambda: TextProblem.from_json({"problem": 7}), "problem must be a string, not int"),
        (lambda: TextProblem.from_json([]), "a problem is a JSON object such as .*not \\[\\]"),
        (lambda: Words.from_json({"concepts": "a b"}), "concepts must be a list of texts, not 'a b'"),
        (lambda: Words.from_json({"concepts": ["a", 7]}), "concepts\\[1\\] must be a string, not int"),
        (lambda: TextProblem.from_text('{"problem": '), "begins as JSON but is none"),
        (lambda: Reading.from_text("Who?"), "several parts: write it as JSON, such as .*question.*documents"),
    ],
)
def test_values_that_cannot_be(make, says):
    with pytest.raises((ValueError, TypeError), match=says):
        make()


def test_problems_as_text():
    assert Words.from_text("cat, dog ,moon") == Words(("cat", "dog", "moon"))
    assert Questions.from_text("One? ; Two?") == Questions(("One?", "Two?"))
    assert Dilemma.from_text("x") == Dilemma("x", "", "")
    assert Dilemma("x", "y").text() == "x\ny\n"


def test_files_of_problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "a", "level": 3}\n\n{"problem": "b"}\n')
    assert load_problems(path, TextProblem) == [TextProblem("a"), TextProblem("b")]
    path.write_text('{"problem": "a"}\n{"problme": "b"}\n')
    with pytest.raises(ValueError, match=r"problems\.jsonl:2: field 'problem' is missing"):
        load_problems(path, TextProblem)
    path.write_text('\n{"problem": "a"')
    with pytest.raises(ValueError, match=r"problems\.jsonl:2: "):
        load_problems(path, TextProblem)
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no problems"):
        load_problems(path, TextProblem)
    with pytest.raises(ValueError, match="cannot read"):
        load_problems(tmp_path / "none", TextProblem)


def test_prompts(tmp_path):
    own = {"a": "Say {word}.", "b": 'A "{json}": {"x": 1} \\boxed'}
    assert fill(own["b"], json=2, other=3) == 'A "2": {"x": 1} \\boxed'
    assert check_prompts({}, own) is own
    assert tomllib.loads(dump_prompts(own)) == own
    path = tmp_path / "prompts.toml"
    path.write_text(dump_prompts({**own, "a": 'Tell """{word}""".\n\\'}))
    assert load_prompts(path, own)["a"] == 'Tell """{word}""".\n\\'
    for text, says in (
        ("a = 'x'\nc = 'y'", "there is no prompt 'c'; this workflow has a, b"),
        ("a = '{word}'", "the prompt 'b' is missing; give all of a, b"),
        ("a = 'x'\nb = '{json}'", r"the prompt 'a' lacks the placeholder \{word\}"),
        ("a = 7\nb = '{json}'", "the prompt 'a' must be a string, not 7"),
        ("a = ", "prompts.toml: "),
        ("", "no prompts in it; give all of a, b"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            load_prompts(path, own)


class Answer:
    id = "x-1"

    def __init__(self, text):
        self.text = text


def test_decisions_are_read_from_text():
    cut = Answer('{"settled": true, "answer": "4 ro')
    assert decision(cut, "settled") is True
    assert field_of(cut, "answer") is None
    assert field_of(Answer('{"answer": "say \\"x\\""}'), "answer") == 'say "x"'
    with pytest.raises(ValueError, match=r"x-1: '\{' has no settled; allow it more tokens"):
        decision(Answer("{"), "settled")
    assert choice(Answer("BEST CHOICE: 12. Since")) == 12
    with pytest.raises(ValueError, match="x-1: 'BEST CHOICE: none' names no proposal"):
        choice(Answer("BEST CHOICE: none"))
    words = ("a", "b", "c", 'd"')
    assert split(Answer('{"words": ["c", "d\\"", "c"'), words) == (("c", 'd"'), ("a", "b"))
    with pytest.raises(ValueError, match=r"x-1: .* names no word of the problem"):
        split(Answer('{"words": ["'), words)


async def test_scripts_and_failures(fake, client):
    kind = WORKFLOWS["multi-question"]
    problem, sizes = kind.samples[0], AnswerSizes(answer_tokens=2)

    async def run(**setting):
        return await kind.run(client, problem, sizes, Setting(**setting))

    with pytest.raises(ValueError, match="the script has no answer 'answer': it was recorded with other sizes"):
        await run(script={})
    with pytest.raises(ValueError, match="the script's answer 'answer' has 3 tokens, 2 are allowed"):
        await run(script={"answer": (1, 2, 3)})
    fake.submits.clear()
    with pytest.raises(ValueError, match="there is no prompt 'rule'"):
        await run(prompts={"rule": "x"})
    assert not fake.submits
    fake.fail.add("answer")
    with pytest.raises(CallFailed, match="the model gave no numbers"):
        await run()
    assert all(workflow.closed for workflow in fake.workflows.values())
