"""Sections, bounds and the spike on what stands in for FlashInfer."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.flashinfer_standin import STAND_IN

from pavane.bench.gpu.bounds import (
    decode_seconds,
    distinct_keys,
    float8_weight_bytes,
    key_bytes,
    prefill_flops,
    weight_bytes,
)
from pavane.bench.gpu.card import Card
from pavane.bench.gpu.models import open_model
from pavane.bench.gpu.rows import Measured, Row, table
from pavane.bench.gpu.section import NotHere, Section, run_sections
from pavane.bench.gpu.sizes import LLAMA_8B, SMALL
from pavane.bench.gpu.spike import SECTIONS
from pavane.bench.gpu.spike.graphs import padded
from pavane.bench.gpu.subject import Subject
from pavane.bench.report import at_most
from pavane.kernels.batch import Batch, Moves


def test_weights_of_a_decode_step_are_those_without_the_embedding_table() -> None:
    layer = 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336) + 2 * 4096
    assert weight_bytes(LLAMA_8B, 2) == 2 * (32 * layer + 128_256 * 4096 + 4096) == 15_009_849_344
    assert weight_bytes(replace(LLAMA_8B, tie_word_embeddings=True), 2) == 15_009_849_344
    scales = 4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096  # one for each output
    small = 32 * (layer + 2 * 4096 + 4 * scales) + 2 * (128_256 * 4096 + 4096)
    assert float8_weight_bytes(LLAMA_8B) == small == 8_036_032_512
    assert key_bytes(LLAMA_8B, 2) == 131_072
    assert decode_seconds(LLAMA_8B, 1000, 2, 4e12) == pytest.approx((15_009_849_344 + 131_072_000) / 4e12)


def test_operations_of_a_prefill_are_counted_key_by_key() -> None:
    config = SMALL.config
    keys = sum(7 + i + 1 for i in range(5))
    products = config.hidden_size * (2 * 4 * 16 + 2 * 2 * 16) + 3 * config.hidden_size * config.intermediate_size
    expected = 2 * 5 * 2 * products + keys * 2 * 4 * 4 * 16 + 2 * config.hidden_size * config.vocab_size
    assert prefill_flops(config, 5, 7) == expected


def test_slots_that_several_segments_read_count_once() -> None:
    draw = random.Random(0)
    for _ in range(50):
        extents = [(draw.randrange(60), draw.randrange(12)) for _ in range(draw.randrange(1, 9))]
        batch = replace(
            Batch.only(Moves()),
            n_segments=1,
            extents=np.array([*extents, (100, 50)], dtype=np.int32),
            extent_indptr=np.array([0, len(extents)], dtype=np.int32),
        )
        assert distinct_keys(batch) == len({slot for a, n in extents for slot in range(a, a + n)})
    assert distinct_keys(Batch.only(Moves())) == 0


def fails(subject, notes):
    notes.data["seen"] = 1
    yield Measured("first", 0.5, "1 s", "2 s")
    yield Measured("odd", math.nan)
    raise ValueError("no\nluck")


def lacks(subject, notes):
    raise NotHere("needs what is not here")
    yield


def works(subject, notes):
    yield Measured("last", 2.0)


def lasts(subject, notes):
    yield Measured("in time", 1.0)
    notes.check_time()
    yield Measured("late", 1.0)


PARTS = [
    Section("fails", (Row("first", at_most(1)), Row("odd"), Row("second")), 5, fails),
    Section("long", (Row("never"),), 100, works),
    Section("lacks", (Row("also never"),), 5, lacks),
    Section("left out", (Row("not now"),), 5, works),
    Section("works", (Row("last", at_most(1)),), 5, works),
]


def test_a_section_that_fails_takes_no_other_with_it() -> None:
    kept = []
    outcome = run_sections(
        PARTS, None, only=["fails", "long", "lacks", "works"], deadline=50.0, say=lambda text: None,
        keep=lambda so_far: kept.append(len(so_far.lines)), clock=lambda: 10.0,
    )  # fmt: skip
    assert [(line.row.what, line.state, line.reason) for line in outcome.lines] == [
        ("first", "measured", ""),
        ("odd", "failed", "the figure is nan"),
        ("second", "failed", "ValueError: no luck"),
        ("never", "not run", "takes about 100 s, and 40 s are left"),
        ("also never", "not run", "needs what is not here"),
        ("not now", "not run", "not asked for: --only leaves it out"),
        ("last", "measured", ""),
    ]
    assert kept == [3, 3, 3, 5, 7, 7]
    assert "ValueError: no" in outcome.errors["fails"]
    assert outcome.data["fails"] == {"seen": 1}
    shown = table(outcome.lines).splitlines()
    assert shown[2].split() == ["fails", "first", "1", "s", "2", "s", "0.500", "<=", "1", "met"]
    assert shown[4].endswith("failed: ValueError: no luck")
    assert shown[8].endswith("MISSED")


def test_what_a_section_has_measured_is_kept_before_it_ends() -> None:
    told, kept = [], []
    part = Section("fails", (Row("first"), Row("second")), 5, fails)
    with pytest.raises(AssertionError, match="has no row 'odd'"):
        run_sections(
            [part], None, only=["fails"], deadline=9.0, say=told.append,
            keep=lambda so_far: kept.append([(line.state, line.reason) for line in so_far.lines]), clock=lambda: 0.0,
        )  # fmt: skip
    assert told == ["  fails ...", "    first: 0.500", "    odd: nan"]
    assert kept[0] == [("measured", ""), ("not run", "the section has not ended")]


def test_nothing_runs_on_a_device_that_is_lost() -> None:
    def check() -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    outcome = run_sections(
        PARTS, None, only=["lacks", "fails", "works"], deadline=50.0, say=print, keep=print, check=check,
        clock=lambda: 0.0,
    )  # fmt: skip
    after = [line for line in outcome.lines if line.section in ("lacks", "works")]
    assert {line.reason for line in after} == {"the device was lost in fails: CUDA error: an illegal memory access"}


def test_a_long_section_ends_when_the_time_is_up() -> None:
    part = Section("lasts", (Row("in time"), Row("late")), 1, lasts)
    times = iter([0.0, 0.0, 9.0, 9.0])
    outcome = run_sections([part], None, only=["lasts"], deadline=5.0, say=print, keep=print, clock=times.__next__)
    assert [(line.state, line.reason) for line in outcome.lines] == [("measured", ""), ("not run", "the time was up")]


def test_a_figure_without_a_row_is_a_mistake() -> None:
    part = Section("wrong", (Row("another"),), 1, works)
    with pytest.raises(AssertionError, match="wrong has no row 'last'"):
        run_sections([part], None, only=["wrong"], deadline=9.0, say=print, keep=print, clock=lambda: 0.0)


def test_the_spike_measures_all_that_needs_no_graph() -> None:
    subject = Subject(Card(torch.device("cpu"), True, 1e10, 1e12), SMALL, open_model, STAND_IN)
    only = [section.name for section in SECTIONS]
    outcome = run_sections(
        SECTIONS, subject, only=only, deadline=math.inf, say=lambda text: None, keep=lambda so_far: None
    )
    assert outcome.errors == {}
    assert {line.section for line in outcome.lines if line.state != "measured"} == {"graphs"}
    values = {line.row.what: line.measured.value for line in outcome.lines if line.measured}
    assert all(value > 0 for value in values.values())
    for count in (1, 4, 16):
        assert values[f"{count} bfloat16 parts merged: relative error against float64"] < 2.0**-7


def test_room_for_more_pieces_is_filled_with_empty_ones() -> None:
    assert padded(4, [7, 9], 4) == ([4, 4, 0, 0], [7, 9, 0, 0])
