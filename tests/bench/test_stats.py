import pytest

from pavane.bench.secure import fours
from pavane.bench.stats import Arrival, NoMeasurement, common_window, decode_rate, inter_token, ratio


def steady(begin, step, tokens, per_arrival=1):
    """A stream whose first arrival comes at `begin`."""
    counts = [*range(per_arrival, tokens + 1, per_arrival)]
    return [Arrival(begin + i * step * per_arrival, count) for i, count in enumerate(counts)]


def test_a_ratio_is_that_of_the_medians_and_its_interval_holds_it():
    found = ratio([10.0, 11.0, 12.0, 50.0, 10.5], [5.0, 5.5, 5.2, 5.1, 20.0])
    assert found.value == pytest.approx(11.0 / 5.2)
    assert found.low < found.value < found.high
    assert found == ratio([10.0, 11.0, 12.0, 50.0, 10.5], [5.0, 5.5, 5.2, 5.1, 20.0])


def test_equal_samples_leave_no_interval():
    found = ratio([3.0, 3.0, 3.0], [2.0, 2.0])
    assert (found.low, found.value, found.high) == (1.5, 1.5, 1.5)


def test_the_interval_narrows_with_repetitions():
    few = ratio([9.0, 10.0, 11.0], [1.0])
    many = ratio([9.0, 10.0, 11.0] * 30, [1.0])
    assert many.high - many.low < few.high - few.low


def test_only_the_time_when_all_decode_counts():
    # The second stream starts late; until then the first runs four times as fast.
    early = [*steady(0.0, 0.005, 20), *(Arrival(0.1 + i * 0.02, 21 + i) for i in range(50))]
    late = steady(0.1, 0.02, 50)
    assert common_window([early, late]) == (0.1, late[-1].at)
    assert decode_rate([early, late]) == pytest.approx(100)
    assert inter_token([early, late]) == pytest.approx(0.02)


def test_nothing_is_lost_at_the_edges():
    streams = [steady(0.3 + i * 1e-4, 0.02, 64) for i in range(8)]  # the same steps, heard one after the other
    assert decode_rate(streams) == pytest.approx(8 / 0.02)


def test_merged_arrivals_count_with_all_their_tokens():
    streams = [steady(0.0, 0.01, 60, per_arrival=3), steady(0.0, 0.01, 60)]
    assert decode_rate(streams) == pytest.approx(200)
    assert inter_token(streams) == pytest.approx(0.01)


@pytest.mark.parametrize("measure", [decode_rate, inter_token])
def test_streams_that_never_met_are_no_measurement(measure):
    with pytest.raises(NoMeasurement, match="2 streams never ran at the same time; give more --tokens"):
        measure([steady(0.0, 0.01, 5), steady(1.0, 0.01, 5)])


def test_too_few_arrivals_are_no_measurement():
    sparse = [Arrival(0.0, 1), Arrival(1.0, 2)]
    with pytest.raises(NoMeasurement, match="fewer than two arrivals while all decode; give more --tokens"):
        decode_rate([sparse, [Arrival(0.4, 1), Arrival(0.5, 2)]])
    with pytest.raises(NoMeasurement, match="no stream has two arrivals while all decode; give more --tokens"):
        inter_token([sparse, [Arrival(0.4, 1), Arrival(1.4, 2)]])


def test_ratios_of_fours_do_not_see_an_even_drift():
    plain, other = [], []
    rate = 1000.0
    for _ in range(5):
        for values, share in ((plain, 1.0), (other, 0.9), (other, 0.9), (plain, 1.0)):
            values.append(rate * share)
            rate *= 0.97
    assert fours(plain, other) == pytest.approx([0.9] * 5)
