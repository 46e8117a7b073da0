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
    model = standing_in_runner(config, tiny_weights(config), 50).model
    graphs = Graphs(model.decoder, model.attention, record)
    none = torch.empty(0, dtype=torch.int32)

    def comes(rows: int) -> bool:
        return graphs.forward(step([1] * rows, 20, before=1), none) is not None

    assert [comes(1), comes(2), comes(1)] == [True] * 3
    assert [comes(4), comes(4)] == [False] * 2
    assert captured == 2
    assert comes(4), "it came often enough"
    assert [comes(1), comes(4), comes(2)] == [True, True, False], "2 was replayed longest ago"
    assert captured == 3
