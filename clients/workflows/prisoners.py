"""The prisoner's dilemma: two agents plan in private, talk in turns, and decide at the same time.

    alice, bob           roots
    plan of each       ← own root
    alice-r            ← alice, alice-plan, all that was said
    bob-r              ← bob, bob-plan, all that was said
    decision of each   ← own root, own plan, all that was said, decide

The decisions are JSON that can say nothing but one of the two words. No decision changes the graph, so all of it is
submitted at once. What is worth watching: a plan is no parent of the other agent's calls, yet with reuse what Alice
says was encoded by somebody who knew her plan. The paper (Bai & Eisner, TACL 2026) samples it at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.workflows.calls import Calls, Handle
from pavane.clients.workflows.decisions import LEAST_TOKENS, decision, json_object
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, count, tokens

NAME = "prisoners"
COOPERATE, DEFECT = "cooperate", "defect"
DECISION = json_object(decision={"enum": [COOPERATE, DEFECT]})
PROMPTS = {
    "alice_system": "You are Alice. {situation} You can talk to Bob before you decide. {advice}",
    "alice": "First plan in private, in two sentences. Then talk to Bob.",
    "bob_system": "You are Bob. {situation} You can talk to Alice before you decide. {advice}",
    "bob": "First plan in private, in two sentences. Then talk to Alice.",
    "decide": 'The talk is over. Decide: answer with JSON, {"decision": "cooperate"} or {"decision": "defect"}.',
}


@dataclass(frozen=True)
class Dilemma(Problem):
    """What both know, and what each is told in private."""

    situation: str
    alice: str = ""
    bob: str = ""


@dataclass(frozen=True)
class TalkSizes(Sizes):
    rounds: int = count(2, "of talk, one utterance of each")
    plan_tokens: int = tokens(128, "of a plan")
    talk_tokens: int = tokens(128, "of an utterance")
    decision_tokens: int = tokens(32, "of a decision", least=LEAST_TOKENS)

    def longest(self) -> int:
        return self.plan_tokens + 2 * self.rounds * self.talk_tokens + self.decision_tokens


@dataclass(frozen=True)
class Prisoners(Outcome):
    """What each decided: "cooperate" or "defect"."""

    alice: str
    bob: str


def submit(calls: Calls[Handle], problem: Dilemma, sizes: TalkSizes) -> tuple[Handle, Handle]:
    """The whole graph at once. The two decisions."""
    alice = calls.prefill("alice", situation=problem.situation, advice=problem.alice)
    bob = calls.prefill("bob", situation=problem.situation, advice=problem.bob)
    decide = calls.prefill("decide")
    own = {
        "alice": (alice, calls.decode("alice-plan", alice, prefix="Plan:", max_tokens=sizes.plan_tokens)),
        "bob": (bob, calls.decode("bob-plan", bob, prefix="Plan:", max_tokens=sizes.plan_tokens)),
    }
    talk: list[Handle] = []
    for r in range(1, sizes.rounds + 1):
        for name, seen in own.items():
            prefix = f"{name.capitalize()}:"
            talk.append(calls.decode(f"{name}-{r}", *seen, *talk, prefix=prefix, max_tokens=sizes.talk_tokens))
    first, second = (
        calls.decode(f"{name}-decision", *seen, *talk, decide, max_tokens=sizes.decision_tokens, json_schema=DECISION)
        for name, seen in own.items()
    )
    return first, second


async def run(
    client: Client, problem: Dilemma, sizes: TalkSizes, setting: Setting, follow: Follow | None = None
) -> Prisoners:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        decided = submit(run, problem, sizes)
    alice, bob = [str(decision(await message, "decision")) for message in decided]
    return run.outcome(Prisoners, alice=alice, bob=bob)


_SITUATION = (
    "You and the other were caught and are asked in separate rooms. If both cooperate with each other and stay silent, "
    "each gets one year. If both defect, each gets five. If only one does, that one goes free and the other gets ten."
)
SAMPLES = (
    Dilemma(_SITUATION),
    Dilemma(_SITUATION, alice="Your advice to yourself: always cooperate."),
    Dilemma(_SITUATION, alice="Your advice to yourself: always defect."),
)

KIND = Kind(
    NAME,
    "two agents plan, talk and decide whether to cooperate",
    Dilemma,
    TalkSizes,
    lambda: TalkSizes(plan_tokens=32, talk_tokens=32, decision_tokens=16),
    PROMPTS,
    run,
    SAMPLES,
    submit,
)
