"""Figures of workflows, from made-up runs."""

from dataclasses import replace

import pytest
from support.measured import SETUP, measured, recording, run

from pavane.bench.workflows.figures import (
    SIZES,
    all_figures,
    bars,
    decode_time,
    first_token,
    first_token_from_start,
    first_token_steps,
    joining,
    label,
)
from pavane.bench.workflows.journal import Journal


def test_only_answers_with_several_parents_have_first_tokens_that_count():
    one = recording()
    made = run(one, "exact", 0)
    assert [call.id for call in joining(made)] == ["reader-1", "reader-2", "reader-3", "final"]
    alone = replace(made, calls=tuple(replace(c, parents=c.parents[:1]) if c.id != "final" else c for c in made.calls))
    assert [call.id for call in joining(alone)] == ["final"]
    final = alone.calls[-1]
    assert first_token(alone) == final.first_token
    assert first_token_from_start(alone) == final.ready + final.first_token
    assert decode_time(alone) == pytest.approx(0.3)


def test_what_ran_while_its_parents_were_still_encoded_counts_from_when_it_began_what_waited_then_does_not():
    made = run(recording(), "reuse", 0)
    final, readers = made.calls[-1], made.calls[-4:-1]
    assert len(final.parents) > 1
    ended = [replace(call, ready=0.0, total=1.0, first_token=0.5, parents=()) for call in readers]

    def measured_with(ready: float, queued: float, first: float) -> float:
        last = replace(final, ready=ready, queued=queued, first_token=first)
        return first_token(replace(made, calls=(*ended, last)))

    assert measured_with(1.0, 0.0, 0.1) == pytest.approx(0.1), "its parents were complete when it was ready"
    assert measured_with(1.0, 0.3, 0.4) == pytest.approx(0.4), "waiting after that counts"
    assert measured_with(0.7, 0.0, 0.31) == pytest.approx(0.31), "in the step that completes its parents"
    assert measured_with(0.7, 0.31, 0.4) == pytest.approx(0.1), "waited for that step"


def test_each_measure_is_a_ratio_of_exact_by_reuse_and_each_peer_has_its_wall():
    records = [*measured(3), run(recording(), "slow", 0, 100.0)]
    found = {figure.what: figure for figure in all_figures(Journal.of(records))}
    assert found["team: first token, parents complete, EXACT / REUSE"].value == pytest.approx(60, rel=0.1)
    assert {"team: wall, llama.cpp / REUSE", "team: wall, slow / REUSE"} <= found.keys()
    assert all(figure.bar is None for figure in found.values()), "bars are for sizes of their own"


def test_prompts_that_became_other_tokens_are_said():
    slow = run(recording(), "slow", 0, 100.0)
    longer = replace(slow, calls=tuple(replace(call, visible=2 * call.visible) for call in slow.calls))
    found = [figure.what for figure in all_figures(Journal.of([*measured(3), longer]))]
    assert "team: wall, slow / REUSE, its prompts as text, +100.0% tokens" in found


def test_the_bar_of_peers_holds_for_the_fastest():
    team = replace(recording(), workflow="rag-team", sizes=dict(SIZES["rag-team"]))
    assert bars(replace(team, sizes={**team.sizes, "agents": 2})) == {}
    runs = [run(team, arm, 0, pace) for arm, pace in (("exact", 12.0), ("reuse", 0.2), ("a", 9.0), ("b", 8.0))]
    found = {figure.what: figure for figure in all_figures(Journal.of([SETUP, team, *runs]))}
    assert str(found["rag-team: wall, b / REUSE"].bar) == ">= 4"
    assert found["rag-team: wall, a / REUSE"].bar is None
    assert found["rag-team: first token, parents complete, EXACT / REUSE"].met


def test_without_reuse_there_is_nothing_to_compare_with():
    one = recording()
    assert all_figures(Journal.of([SETUP, one, run(one, "exact", 0)])) == []


def test_first_tokens_are_told_in_steps_of_the_batch_that_is_joined():
    made = run(recording(), "reuse", 0)
    slow = {"reader-2": 0.06, "final": 0.04}  # seconds a step; reader 2 is the last to end

    def paced(call):
        step = slow.get(call.id, 0.01)
        first = 0.12 if call.id == "final" else 0.01
        return replace(call, first_token=first, total=first + step * call.generated)

    interval = first_token_steps([replace(made, calls=tuple(map(paced, made.calls)))])
    assert interval.value == pytest.approx(2.0), "0.12 s by the step of reader 2, not by its own"
    roots_only = replace(made, calls=made.calls[:-1])
    assert first_token_steps([roots_only]) is None


def test_labels_tell_cases_apart():
    two, three = recording(2), recording(3)
    assert label(two, [two]) == "team"
    assert [label(one, [two, three]) for one in (two, three)] == ["team, agents 2", "team, agents 3"]
