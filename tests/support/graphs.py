"""Random message graphs: every kind of call, edge and placement, with few different tokens, so that many are equal.
Some calls see what another one sees, and begin as it does."""

from hypothesis import strategies as st

from pavane.scheduler.spec import CallSpec, ParentSpec
from support.harness import decode, prefill

TOKENS = st.lists(st.integers(3, 12), min_size=1, max_size=9)


@st.composite
def graphs(draw: st.DrawFn) -> list[CallSpec]:
    calls: list[CallSpec] = []
    for i in range(draw(st.integers(2, 9))):
        names = draw(st.permutations([call.id for call in calls]))[: draw(st.integers(0, min(4, len(calls))))]
        all_exact = draw(st.integers(0, 3)) == 0
        edges = []
        for name in names:
            placement = draw(st.sampled_from(["packed", "packed", "offset", "as_encoded"]))
            edges.append(
                ParentSpec(
                    name,
                    offset=draw(st.integers(0, 60)) if placement == "offset" else None,
                    as_encoded=placement == "as_encoded",
                    exact=all_exact or draw(st.integers(0, 2)) == 0,
                )
            )
        start = draw(st.none() | st.integers(0, 90))
        header = draw(TOKENS)
        if calls and draw(st.integers(0, 2)) == 0:
            other = draw(st.sampled_from(calls))
            edges, start = list(other.parents), other.start
            header = [*other.tokens, *header[: draw(st.integers(0, 2))]] or header  # a copy has none of its own
        if draw(st.booleans()):
            forced = tuple(draw(TOKENS))
            calls.append(
                decode(
                    f"m{i}",
                    header,
                    *edges,
                    start=start,
                    forced=forced,
                    logprobs=True,
                    one_pass=draw(st.booleans()),
                )
            )
        elif calls and draw(st.integers(0, 4)) == 0:
            calls.append(prefill(f"m{i}", [], *edges, start=start, copy_of=draw(st.sampled_from(calls)).id))
        else:
            calls.append(prefill(f"m{i}", header, *edges, start=start, exact=draw(st.integers(0, 3)) == 0))
    return calls
