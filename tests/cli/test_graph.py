import pytest

from pavane.cli.graph import Choice
from pavane.cli.graph_file import load_graph
from pavane.cli.run import EXAMPLES
from pavane.cli.yaml_values import GraphError
from pavane.clients import Edge
from pavane.clients.sampling import derived_seed

GOOD = """\
description: small
vars: {problem: "2+2?", price: $5}
defaults: {max_tokens: 7, temperature: 0.5}
messages:
  - id: start
    prefill: {system: Be brief., user: "{{problem}} {{ price }}"}
  - id: idea
    parents: [start]
    decode:
  - id: final
    parents: [{id: start, at: 40}, {id: idea, fidelity: exact, as_encoded: true, last: true}]
    decode: {prefix: "So: ", stop: ["\\n\\n", "{{problem}}"], seed: 5, max_tokens: 9}
"""


@pytest.fixture
def read(tmp_path):
    def read(text, variables=(), **options):
        path = tmp_path / "graph.yaml"
        path.write_text(text)
        return load_graph(path, dict(variables), **options)

    return read


def test_a_graph_is_read(read):
    graph = read(GOOD, {"problem": "3+3?"}, seed=1)
    start, idea, final = graph.nodes
    assert graph.description == "small"
    assert start.prefill == {"id": "start", "system": "Be brief.", "user": "3+3? $5"}
    assert idea.decode == {"id": "idea", "seed": derived_seed(1, "idea"), "max_tokens": 7, "temperature": 0.5}
    assert final.parents == (Edge("start").at(40), Edge("idea").exact().as_encoded().last())
    assert final.decode["seed"] == 5
    assert final.decode["max_tokens"] == 9
    assert final.decode["stop"] == ["\n\n", "3+3?"]


GROUPED = """\
messages:
  - {id: a, decode: }
  - {id: b, decode: }
  - {id: final, parents: [{id: best, fidelity: exact}], decode: }
groups:
  - {id: best, members: [a, b], need: 1, cancel_rest: true}
"""


def test_groups(read):
    graph = read(GROUPED)
    assert graph.groups == (Choice("best", ("a", "b"), 1, True),)
    assert graph.nodes[2].parents == (Edge("best").exact(),)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("need: 1", "need: 3", 6, "group 'best': need must be from 1 to 2, not 3"),
        ("need: 1, ", "", 6, "a group needs need"),
        ("need: 1", "needs: 1", 6, "a group has no key 'needs'; it knows id, members"),
        ("[a, b]", "a", 6, "members must be a list"),
        ("[a, b]", "[a, a]", 6, "member 'a' is listed twice"),
        ("[a, b]", "[a, b, z]", 4, "'final' names 'best', which is not declared above it"),
        ("id: best, m", "id: b, m", 6, "the id 'b' is there twice"),
        ("cancel_rest: true", "cancel_rest: please", 6, "true or false, not 'please'"),
        ("  - {id: best, members: [a, b], need: 1, cancel_rest: true}", "  best", 6, "groups must be a list"),
    ],
)
def test_what_is_wrong_with_groups_is_said_with_its_line(read, old, new, line, says):
    text = GROUPED.replace("id: best, fid", "id: b, fid") if "id: b, m" in new else GROUPED
    assert text.count(old) == 1
    with pytest.raises(GraphError, match=says) as caught:
        read(text.replace(old, new))
    assert f"graph.yaml:{line}: " in str(caught.value)


def test_values_may_be_mappings(read):
    options = '{json_schema: {enum: [a, "{{problem}}"]}, logit_bias: {5: 1.5, 7: -.inf}}'
    final = read(GOOD.replace("decode:\n", f"decode: {options}\n"), {"problem": "b"}).nodes[1]
    assert final.decode["json_schema"] == {"enum": ["a", "b"]}
    assert final.decode["logit_bias"] == {5: 1.5, 7: float("-inf")}


def test_seeds_and_fidelity_of_the_run(read):
    assert derived_seed(1, "a") == derived_seed(1, "a")
    assert len({derived_seed(seed, i) for seed in (1, 2) for i in "abc"}) == 6
    assert "seed" not in read(GOOD).nodes[1].decode
    assert all((n.prefill or n.decode)["fidelity"] == "exact" for n in read(GOOD, fidelity="exact").nodes)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("stop:", "stopp:", 12, "decode has no key 'stopp'; it knows"),
        ("parents: [start]", "parents: [strat]", 8, "'idea' names 'strat', which is not declared above it; .* start"),
        ("parents: [start]", "parents: [start, start]", 8, "lists its parent 'start' twice"),
        ("parents: [start]", "parents: start", 8, "must be a list"),
        ("fidelity: exact", "fidelity: high", 11, "reuse or exact, not 'high'"),
        ("at: 40", "at: here", 11, "an offset in tokens"),
        ("at: 40", "att: 40", 11, "an edge has no key 'att'"),
        ("as_encoded: true", "as_encoded: true, at: 3", 11, "not both"),
        ("  - id: idea", "  - id: start", 7, "'start' is there twice"),
        ("  - id: idea\n    parents", "  - parents", 7, "needs an id"),
        ("    decode:\n", "", 7, "must have prefill or decode"),
        ("seed: 5", "seed: five", 12, "seed must be an integer"),
        ("seed: 5", "seed: 5, seed: 6", 12, "'seed' twice"),
        ("{{problem}} {{", "{{riddle}} {{", 6, "'riddle' is not declared under vars; declared: problem, price"),
        ("messages:", "message:", 4, "the file has no key 'message'"),
        ("system: Be brief.", "text: Be brief.", 6, "got user and text"),
        ("max_tokens: 7", "max_token: 7", 3, "defaults has no key 'max_token'"),
        ("description: small", "description: [small", 2, "expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read, old, new, line, says):
    assert GOOD.count(old) == 1
    with pytest.raises(GraphError, match=says) as caught:
        read(GOOD.replace(old, new))
    assert f"graph.yaml:{line}: " in str(caught.value)


def test_variables_must_be_declared(read):
    with pytest.raises(GraphError, match="no variable 'probem' to set; the file declares problem, price"):
        read(GOOD, {"probem": "x"})
    with pytest.raises(GraphError, match="give --var problem"):
        read(GOOD.replace('problem: "2+2?"', "problem: "))


def test_files_that_are_no_graphs(read, tmp_path):
    with pytest.raises(GraphError, match="the file is empty"):
        read("")
    with pytest.raises(GraphError, match="must be a mapping"):
        read("- a\n")
    with pytest.raises(GraphError, match="at least one message"):
        read("messages: []\n")
    with pytest.raises(GraphError, match="cannot read"):
        load_graph(tmp_path / "none.yaml", {})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_good(path):
    assert len(load_graph(path, {}).nodes) > 3
