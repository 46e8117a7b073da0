"""The device that takes its time beside the host."""

import numpy as np

from pavane.bench.fake_device import FakeDevice
from pavane.kernels.batch import Launcher
from pavane.scheduler.pipeline import Pipeline
from tests.models.test_runner import step

STEP_S = 0.02


def test_steps_take_their_time_one_after_the_other_and_launching_takes_none_of_it() -> None:
    device = FakeDevice(STEP_S)
    assert isinstance(device, Launcher)
    pipeline = Pipeline(device)
    futures = [pipeline.submit(step(i, i - 1 if i < 2 else 0)) for i in range(4)]
    assert [len(future.result(10.0).tokens) for future in futures] == [1] * 4
    pipeline.close()
    rows, ends, idle, launching, loop = (np.array(column) for column in zip(*device.steps, strict=True))
    assert rows.tolist() == [1] * 4
    np.testing.assert_allclose(np.diff(ends), STEP_S + idle[1:], atol=1e-6)
    assert (launching > 0).all()
    assert (np.diff(loop) >= 0).all()
    late = FakeDevice(STEP_S)
    late.execute(step(0, -1))
    late.execute(step(1, -1))
    assert late.steps[1][2] > 0, "it had nothing to do until it was given the second step"
