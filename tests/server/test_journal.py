"""What readers of a journal are told, whenever they come."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.spec import (
    Closed,
    DecodeSpec,
    Ended,
    Failure,
    Outcome,
    Receipt,
    Restarted,
    State,
    StateChanged,
    TokensAdded,
    Top,
)
from pavane.server.convert import outcome_message
from pavane.server.ends import message_of
from pavane.server.journal import LEAVING_KEPT, Journal
from pavane.server.text.tokenizer import PIECE, Tokenizer

WHY = Failure("NOTHING_ALLOWED", "call 'a' finds no token", ("a",))


@pytest.fixture
def said(tokenizer: Tokenizer) -> tuple[TokensAdded, TokensAdded]:
    """Two pieces of an answer: the first ends within a stop string."""
    ids = tuple(tokenizer.encode("red STOP blue", special=False))
    cut = next(i for i in range(len(ids)) if "ST" in tokenizer.decode(ids[:i]))
    return TokensAdded("a", ids[:cut], ()), TokensAdded("a", ids[cut:], ())


def kinds(events: list[pb.Event]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def test_what_was_said_before_a_restart_is_void(tokenizer: Tokenizer, said: tuple[TokensAdded, ...]) -> None:
    journal = Journal(tokenizer)
    journal.expect("a", DecodeSpec(seed=1, stop=("STOP now",)))
    first, second = said
    journal.record([StateChanged("a", State.RUNNING), first])
    (state, early) = journal.read(0)
    assert "ST" not in early.delta.text  # held back
    cursor = journal.cursor
    journal.record([second, Restarted("a", 2, WHY)])
    (restarted,) = journal.read(cursor)
    assert (restarted.restarted.attempt, restarted.restarted.error.reason) == (2, "NOTHING_ALLOWED")
    assert list(restarted.restarted.error.ids) == ["a"]
    assert kinds(journal.read(0)) == ["state", "restarted"]

    journal.record([first, second])
    for after in (0, cursor):
        told = journal.read(after)
        assert kinds(told)[-2:] == ["restarted", "delta"]
        delta = told[-1].delta
        assert (delta.text, delta.first_token, delta.first_char) == ("red STOP blue", 0, 0)
        assert list(delta.tokens) == [*first.tokens, *second.tokens]
    assert kinds(journal.read(0, deltas=False)) == ["state", "restarted"]
    assert kinds(journal.read(restarted.cursor)) == ["delta"]
    assert state.state == pb.STATE_RUNNING


def test_of_an_ended_call_only_the_end_is_told(tokenizer: Tokenizer, said: tuple[TokensAdded, ...]) -> None:
    journal = Journal(tokenizer)
    journal.expect("a", DecodeSpec(seed=1))
    outcome = Outcome("a", State.DONE, tokens=said[0].tokens, content=(0, 2), decode=True, attempts=3)
    journal.record([Restarted("a", 2, WHY), said[0], Restarted("a", 3, WHY), said[0], Ended("a", outcome)])
    (ended,) = journal.read(0)
    assert ended.done.attempts == 3
    assert list(ended.done.tokens) == list(said[0].tokens)


async def test_a_long_end_is_told_beside_the_loop(tokenizer: Tokenizer) -> None:
    tokens = array("i", tokenizer.encode("red STOP blue é " * PIECE, special=False))
    outcome = Outcome("a", State.DONE, tokens=tokens, content=(0, 0))
    journal = Journal(tokenizer)
    journal.expect("a", None)
    journal.record([Ended("a", outcome)])
    assert journal.has_ended("a")
    reader = asyncio.create_task(journal.prepare(0, ["a"]))
    turns = 0
    while not reader.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2, "the loop went on"
    (told,) = journal.read(0)
    assert told is journal.ended("a")
    assert told.done == outcome_message(outcome, tokenizer)
    assert told.done.text == "red STOP blue é " * PIECE
    assert list(told.done.tokens) == tokens.tolist()
    assert (await message_of(outcome, tokenizer)) == told.done


def test_a_long_end_can_be_told_at_once(tokenizer: Tokenizer) -> None:
    tokens = array("i", [1000]) * (PIECE + 1)
    journal = Journal(tokenizer)
    journal.expect("a", None)
    journal.record([Ended("a", Outcome("a", State.FAILED, tokens=tokens, failure=WHY))])
    (told,) = journal.read(0)
    assert (told.failed.error.reason, len(told.failed.tokens)) == (WHY.reason, len(tokens))


def test_the_end_of_a_released_call_is_kept_for_a_while(tokenizer: Tokenizer) -> None:
    """So a workflow that goes on for ever, and releases what it has sent, holds no more than that."""
    journal = Journal(tokenizer)
    ids = [f"a{i}" for i in range(LEAVING_KEPT + 10)]
    for id in ids:
        journal.expect(id, DecodeSpec(seed=1))
    journal.record([StateChanged(id, State.RUNNING) for id in ids])
    journal.forget(ids)
    assert all(journal.known(id) for id in ids), "readers wait for their ends"
    journal.record([Ended(id, Outcome(id, State.DONE, decode=True)) for id in ids])
    assert journal.forgotten == 10
    assert [event.id for event in journal.read(0)] == ids[10:]
    journal.forget(ids)  # once more
    assert journal.forgotten == len(ids)
    journal.expect("b", DecodeSpec(seed=1))
    journal.forget(["b"])
    journal.record([Ended("b", Outcome("b", State.DONE, decode=True))])
    assert [event.id for event in journal.read(0)] == ["b"]


async def test_readers_are_woken_by_what_they_read(tokenizer: Tokenizer, said: tuple[TokensAdded, ...]) -> None:
    journal = Journal(tokenizer)
    for id in ("a", "b"):
        journal.expect(id, DecodeSpec(seed=1))
    everything, both = journal.changed(), journal.changed(frozenset("ab"))
    of_b, ends = journal.changed(frozenset("b")), journal.changed(deltas=False)
    gone = journal.changed(frozenset("a"))
    gone.cancel()
    journal.record([said[0]])
    assert [w.done() for w in (everything, both, of_b, ends)] == [True, True, False, False]
    journal.record([TokensAdded("b", said[0].tokens, ()), TokensAdded("c", (1,), ())])
    assert of_b.done()
    assert not ends.done()
    of_a = journal.changed(frozenset("a"))
    journal.record([StateChanged("b", State.RUNNING)])
    assert ends.done()
    assert not of_a.done()
    journal.record([Closed(Receipt())])
    assert of_a.done(), "nothing more comes"


def test_what_a_lagging_reader_gets_at_once_is_what_others_got_in_pieces(tokenizer: Tokenizer) -> None:
    journal = Journal(tokenizer)
    journal.expect("a", DecodeSpec(seed=1))
    ids = tokenizer.encode("red STOP blue é", special=False)
    pieces: list[pb.Delta] = []
    for i, token in enumerate(ids):
        top = (Top((token, 7), (-0.5, -1.5)),) if i % 2 else ()
        journal.record([TokensAdded("a", (token,), (-0.25 * i,), top)])
        pieces += [event.delta for event in journal.read(journal.cursor - 1)]
    assert [piece.first_token for piece in pieces] == list(range(len(ids)))
    for first, piece in enumerate(pieces):
        (event,) = journal.read(first)
        whole = pb.Delta(first_token=piece.first_token, first_char=piece.first_char)
        for part in pieces[first:]:
            whole.text += part.text
            for name in ("tokens", "logprobs", "top_logprobs"):
                getattr(whole, name).extend(getattr(part, name))
        assert (event.cursor, event.id, event.delta) == (len(ids), "a", whole)
    assert journal.read(len(ids)) == []
