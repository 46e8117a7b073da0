"""Every workflow, all-EXACT and greedy, on SmolLM2's real weights in float32: each token is transformers' likeliest
after the same prompt, of those that the constraint allows if there is one. Prompts are short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from end_to_end.served import ServerProcess
from end_to_end.test_workflows import NAMES, TINY
from support.theirs import transformers_model

from pavane.clients import Client, Message
from pavane.clients.workflows import WORKFLOWS, Outcome, Prompts, Setting
from pavane.clients.workflows.decisions import LEAST_TOKENS
from pavane.clients.workflows.outcome import header
from pavane.clients.workflows.sizes import Sizes
from pavane.models.default import default_model_path
from pavane.models.loader import load_model
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.server.text.chat_choice import choose_chat_format
from pavane.server.text.constraint import Constraints
from pavane.server.text.tokenizer import Tokenizer

TIE = 1e-3


class Theirs:
    """transformers' model, and what the server's constraints allow."""

    def __init__(self) -> None:
        loaded = load_model(default_model_path(), torch.float32)
        tokenizer = Tokenizer(loaded.tokenizer)
        self._model = transformers_model(loaded.config, loaded.weights)
        self._vocab_size = loaded.config.vocab_size
        self.end_ids = choose_chat_format(loaded.tokenizer, tokenizer).end_ids
        self._constraints = Constraints(tokenizer, self.end_ids, self._vocab_size)

    @torch.inference_mode()
    def logits(self, before: list[int], content: tuple[int, ...]) -> torch.Tensor:
        """(tokens + 1, vocabulary): before each token of the content, and at its end."""
        line = torch.tensor([[*before, *content]])
        logits: torch.Tensor = self._model(line, logits_to_keep=len(content) + 1).logits[0]
        return logits

    def allowed(self, call: pb.Call, content: tuple[int, ...]) -> torch.Tensor:
        """(tokens + 1, vocabulary): what the constraint of the call lets follow."""
        sampling = call.decode.sampling
        kind = sampling.WhichOneof("constraint")
        rows = np.ones((len(content) + 1, self._vocab_size), dtype=bool)
        if kind is not None:
            follow = self._constraints.get(kind, getattr(sampling, kind), call.id).start(self.end_ids)
            for row, token in zip(rows, (*content, None), strict=True):
                mask = np.zeros((self._vocab_size + 31) // 32, dtype=np.uint32)
                if not follow.complete:
                    follow.fill(mask)
                row[:] = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._vocab_size]
                if token is not None:
                    follow.advance(token)
        return torch.from_numpy(rows)


class Calls:
    """Remembers them."""

    def __init__(self) -> None:
        self.by_id: dict[str, pb.Call] = {}

    def on_message(self, message: Message) -> None:
        self.by_id[message.id] = message.call


PROBLEM = {  # for all
    "problem": "What is 17 + 25?",
    "concepts": ["sea", "ship", "storm"],
    "questions": ["Who wrote Hamlet?", "What is 6 * 7?"],
    "situation": "Cooperate or defect.",
    "question": "How old is Ann?",
    "documents": ["Ann is 41.", "Bob is 39.", "Ann met Bob."],
}


def short(prompts: Prompts) -> Prompts:
    """The same prompts without their words."""
    return {name: " ".join(["Now:", *re.findall(r"\{[a-z_]+\}", text)]) for name, text in prompts.items()}


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return Theirs()


@pytest.fixture(scope="module")
def exact_server() -> Iterator[ServerProcess]:
    process = ServerProcess("--dtype", "float32", "--batch-invariant", "--num-slots", "4096", "--threads", "1")
    try:
        yield process.wait_ready()
    finally:
        process.stop()


def fewer(sizes: Sizes) -> Sizes:
    """Two of everything, in one round; answers of three tokens, but for decisions."""
    most = {"agents": 2, "rounds": 1, "proposals": 2, "votes": 2, "sections": 2}
    made = {
        name: most.get(name, min(value, 3) if value < LEAST_TOKENS else value) for name, value in vars(sizes).items()
    }
    return replace(sizes, **made)


@pytest.mark.parametrize(("name", "sizes"), [(name, fewer(sizes)) for name, sizes in TINY], ids=NAMES)
async def test_tokens_are_those_of_transformers(
    exact_server: ServerProcess, theirs: Theirs, name: str, sizes: Sizes
) -> None:
    kind, calls = WORKFLOWS[name], Calls()
    async with Client(exact_server.target, namespace=name) as client:
        setting = Setting("exact", temperature=0.0, prompts=short(kind.prompts))
        outcome: Outcome = await kind.run(client, kind.problem.from_json(PROBLEM), sizes, setting, calls)
    for message in outcome.answers.values():
        parents = [token for edge in outcome.parents[message.id] for token in outcome.messages[edge.id].tokens]
        logits = theirs.logits([*parents, *header(message)], message.content)
        logits = logits.masked_fill(~theirs.allowed(calls.by_id[message.id], message.content), -torch.inf)
        best = logits.max(dim=-1).values
        for n, token in enumerate(message.content):
            assert best[n] - logits[n, token] < TIE, (message.id, n, message.text)
        if message.finish == "end_of_turn":
            assert best[-1] - logits[-1, list(theirs.end_ids)].max() < TIE, (message.id, message.text)
