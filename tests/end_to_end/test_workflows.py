"""Every workflow on the real model: what its receipts count is what the rule predicts, and a script repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from end_to_end.served import LONG, ServerProcess

from pavane.bench.prediction import counted, predict
from pavane.clients import Client, Fidelity, Message
from pavane.clients.workflows import WORKFLOWS, Kind, Outcome, Setting
from pavane.clients.workflows.branch_solve_merge import StorySizes
from pavane.clients.workflows.calls import Calls
from pavane.clients.workflows.coarse_to_fine import TextSizes
from pavane.clients.workflows.debate import DebateSizes
from pavane.clients.workflows.iterative_debate import TurnSizes
from pavane.clients.workflows.multi_question import AnswerSizes
from pavane.clients.workflows.prisoners import TalkSizes
from pavane.clients.workflows.rag_team import TeamSizes
from pavane.clients.workflows.run import Run
from pavane.clients.workflows.sizes import Sizes
from pavane.clients.workflows.tree_of_thoughts import TreeSizes

_NUMBERS = count()
TINY: list[tuple[str, Sizes]] = [
    ("tree-of-thoughts", TreeSizes(proposals=3, votes=3, proposal_tokens=6, vote_tokens=4, final_tokens=4)),
    ("iterative-debate", TurnSizes(rounds=2, turn_tokens=6, moderator_tokens=16)),
    ("debate", DebateSizes(agents=3, rounds=2, answer_tokens=5, last_tokens=3)),
    ("debate", DebateSizes(agents=3, rounds=3, answer_tokens=5, last_tokens=3, summary_tokens=4)),
    ("branch-solve-merge", StorySizes(branch_tokens=24, story_tokens=6, final_tokens=4)),
    ("multi-question", AnswerSizes(answer_tokens=6)),
    ("prisoners", TalkSizes(plan_tokens=5, talk_tokens=5, decision_tokens=16)),
    ("coarse-to-fine", TextSizes(sections=3, outline_tokens=6, section_tokens=6)),
    ("rag-team", TeamSizes(agents=5, answer_tokens=5, judge_tokens=4)),
]
NAMES = [f"{name}-{i}" for i, (name, _) in enumerate(TINY)]


@dataclass
class Fresh:
    """Runs each workflow in a namespace of its own."""

    target: str

    async def run(self, kind: Kind[Any, Any], sizes: Sizes, setting: Setting, problem: int = 0) -> Outcome:
        async with self.client() as client:
            return await kind.run(client, kind.sample_problems()[problem], sizes, setting)

    def client(self) -> Client:
        return Client(self.target, namespace=f"workflows-{next(_NUMBERS)}")


@pytest.fixture
def fresh(server: ServerProcess) -> Fresh:
    return Fresh(server.target)


@pytest.mark.parametrize(("name", "sizes"), TINY, ids=NAMES)
async def test_receipts_are_as_predicted_and_a_script_repeats_the_run(fresh: Fresh, name: str, sizes: Sizes) -> None:
    kind = WORKFLOWS[name]
    sampled = await fresh.run(kind, sizes, Setting(equal_lengths=True))
    assert counted(sampled.total) == predict(sampled, "reuse")
    again = await fresh.run(kind, sizes, Setting("exact", script=sampled.script()))
    assert counted(again.total) == predict(again, "exact") == predict(sampled, "exact")
    assert again.total.repositioned == sampled.total.reencoded == again.total.reencoded == 0
    assert counted(again.total) != counted(sampled.total)
    for outcome, fidelity in ((sampled, "reuse"), (again, "exact")):
        assert {edge.fidelity for edges in outcome.parents.values() for edge in edges} == {fidelity}
    assert {i: m.tokens for i, m in again.messages.items()} == {i: m.tokens for i, m in sampled.messages.items()}
    assert decided(again) == decided(sampled)
    assert list(sampled.messages) == list(sampled.submitted) == list(sampled.parents)
    assert sampled.wall > 0
    assert list(sampled.submitted.values()) == sorted(sampled.submitted.values())


def decided(outcome: Outcome) -> dict[str, object]:
    """The workflow's own fields, without receipts."""
    common = {"workflow", "messages", "parents", "submitted", "total", "started_at", "wall"}
    own = {key: value for key, value in vars(outcome).items() if key not in common}
    return {key: value for key, value in own.items() if key not in ("answers_by_round", "readers")}


@pytest.mark.parametrize("fidelity", ["reuse", "exact"])
@pytest.mark.parametrize(
    ("name", "sizes"), [one for one in TINY if WORKFLOWS[one[0]].submit is not None], ids=lambda one: str(one)[:10]
)
async def test_a_plan_says_the_same(fresh: Fresh, name: str, sizes: Sizes, fidelity: Fidelity) -> None:
    kind = WORKFLOWS[name]
    problem = kind.sample_problems()[1]
    outcome = await fresh.run(kind, sizes, Setting(fidelity, equal_lengths=True), problem=1)
    async with fresh.client() as client, client.workflow() as wf:
        draft = wf.draft()
        assert kind.submit is not None
        kind.submit(Calls(draft, Setting(fidelity, script=outcome.script()), kind.prompts), problem, sizes)
        plan = await draft.plan()
    assert counted(plan.total) == counted(outcome.total) == predict(outcome, fidelity)


async def test_greedy_agents_agree_and_what_they_say_is_encoded_once(fresh: Fresh) -> None:
    """All prompts and answers of a round are the same: the formula counts paths, not agents."""
    sizes = DebateSizes(agents=3, rounds=2, answer_tokens=5, last_tokens=5)
    outcome = await fresh.run(WORKFLOWS["debate"], sizes, Setting("exact", temperature=0.0, equal_lengths=True))
    assert len({outcome.messages[f"agent{i}-round1"].tokens for i in (1, 2, 3)}) == 1
    assert counted(outcome.total) == predict(outcome, "exact")


async def test_the_first_votes_are_enough(fresh: Fresh) -> None:
    kind = WORKFLOWS["tree-of-thoughts"]
    sizes = TreeSizes(proposals=2, votes=4, need=2, proposal_tokens=4, vote_tokens=12, final_tokens=4)
    outcome = await fresh.run(kind, sizes, Setting())
    votes = [message for i, message in outcome.messages.items() if i.startswith("vote-")]
    assert {message.state for message in votes} <= {"done", "cancelled"}
    done = [message for message in votes if message.state == "done"]
    assert 2 <= len(done) == len(vars(outcome)["votes"])
    again = await fresh.run(kind, sizes, Setting(script=outcome.script()))
    assert [i for i in again.messages if i.startswith("vote-")] == [message.id for message in done]
    assert decided(again) == decided(outcome)


async def test_what_is_not_among_the_first_is_given_up(fresh: Fresh) -> None:
    kind = WORKFLOWS["multi-question"]
    async with fresh.client() as client:
        own = {"ask": "Count."}
        async with Run("count", client, kind.samples[0], AnswerSizes(), Setting(equal_lengths=True), own, None) as run:
            ask = run.prefill("ask")
            both = [run.decode("slow", ask, max_tokens=LONG), run.decode("quick", ask, max_tokens=2)]
            assert [result.id for result in await run.first(both, 1)] == ["quick"]
    outcome = run.outcome(Outcome)
    assert {i: message.state for i, message in outcome.messages.items()} == {
        "ask": "done",
        "slow": "cancelled",
        "quick": "done",
    }
    assert list(outcome.script()) == ["quick"]
    with pytest.raises(ValueError, match="slow is cancelled: what it cost"):
        predict(outcome, "reuse")


async def test_an_empty_answer_is_replayed(fresh: Fresh) -> None:
    kind, sizes = WORKFLOWS["multi-question"], AnswerSizes(answer_tokens=4)
    outcome = await fresh.run(kind, sizes, Setting(script={"answer": ()}))
    assert outcome.messages["answer"].content == ()
    assert outcome.total.generated == 0
    assert outcome.script() == {"answer": ()}
    assert counted(outcome.total) == predict(outcome, "reuse")


async def test_more_than_the_context_is_refused_before_anything_is_submitted(fresh: Fresh) -> None:
    seen: list[Message] = []

    class Follow:
        def on_message(self, message: Message) -> None:
            seen.append(message)

    kind = WORKFLOWS["debate"]
    async with fresh.client() as client:
        with pytest.raises(ValueError, match=r"up to 10192 tokens of answers, and the problem has \d+; the server's"):
            await kind.run(
                client, kind.samples[0], DebateSizes(answer_tokens=2000, last_tokens=192), Setting(), Follow()
            )
    assert not seen
