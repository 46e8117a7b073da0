"""Which steps have graphs, if there are more sizes than graphs."""

from collections.abc import Callable

import pytest
import torch
from support.gpu_attention import again, standing_in_runner
from support.tiny import tiny_config, tiny_weights

from pavane.models import gpu_graphs
from pavane.models.gpu_graphs import Graphs
from pavane.models.gpu_warmup import step


def test_a_size_that_comes_often_takes_the_place_of_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_graphs, "MOST_GRAPHS", 2)
    monkeypatch.setattr(gpu_graphs, "WORTH", 3)
    captured = 0

    def record(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        nonlocal captured
        captured += 1
        return again(run)

    config = tiny_config()
    model = standing_in_runner(config, tiny_weights(config), 200).model
    graphs = Graphs(model.decoder, model.attention, record)
    none = torch.empty(0, dtype=torch.int32)

    def comes(rows: int) -> bool:
        return graphs.forward(step([1] * rows, 20, before=1), none) is not None

    assert [comes(1), comes(8), comes(1)] == [True] * 3
    assert [comes(64), comes(64)] == [False] * 2
    assert captured == 2
    assert comes(64), "it came often enough"
    assert [comes(1), comes(64), comes(8)] == [True, True, False], "8 was replayed longest ago"
    assert captured == 3
    assert [comes(16), comes(40)] == [True, True], "that of 64 rows serves"
    assert captured == 3


@pytest.mark.parametrize(
    ("rows", "captured"),
    [
        ([256], False),  # half the square of one call's rows is more than MOST_OWN
        ([255], True),
        ([100, 100, 56], True),
        ([100, 100, 57], False),
        ([1, 9, 1, 40], True),
    ],
)
def test_headers_are_captured_as_well(rows: list[int], captured: bool) -> None:
    """Beside decodes, with a parent that all read; the layers give what they give launch by launch."""
    config = tiny_config()
    weights = tiny_weights(config)
    model, plain = (standing_in_runner(config, weights, 600).model for _ in range(2))
    graphs = Graphs(model.decoder, model.attention, again)
    none = torch.empty(0, dtype=torch.int32)
    before = [([3] * 4, 0), ([7, 5, 9], 0)]  # keys for those that follow
    for batch in [*(step(rows, 90, before=at) for rows, at in before), step(rows, 90, before=2, parent=30)]:
        got, expected = graphs.forward(batch, none), plain.forward(batch, none).hidden
        assert (got is None) == (sum(rows) == batch.n_rows and not captured)
        hidden = got[0] if got is not None else model.forward(batch, none).hidden
        torch.testing.assert_close(hidden, expected)


def test_a_step_that_the_workspace_has_no_room_for_is_not_captured() -> None:
    config = tiny_config()
    model = standing_in_runner(config, tiny_weights(config), 600).model
    graphs = Graphs(model.decoder, model.attention, again)
    none = torch.empty(0, dtype=torch.int32)
    batch = step([1] * 64, 90, before=1)
    assert graphs.forward(batch, none) is not None
    room = 64 * 16 * config.num_heads * (config.head_dim + 1) * 4  # a tile of 16 rows for each
    for size, fits in ((2 * room, True), (room, False)):
        model.attention._workspace = torch.empty(size, dtype=torch.uint8)
        assert (model.attention.plan_captured(batch) is not None) == fits
