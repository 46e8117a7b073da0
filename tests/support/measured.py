"""Records of workflows as benchmarks write them, with made-up times."""

import random

from pavane.bench.workflows.records import Record, RecordedCall, Recording, Run, Setup, TimedCall

SETUP = Setup(
    model="tiny.gguf",
    model_bytes=1000,
    threads=2,
    serve=(),
    problems="own",
    seed=1,
    cores=2,
    cpu="a <processor> & more",
    pavane="0.1.0",
)


def recording(agents: int = 3) -> Recording:
    """Two documents, read by agents in different orders, and a judge."""

    def call(i: str, *parents: str, decode: bool = False) -> RecordedCall:
        header = (1, 2) if decode else tuple(range(10, 40))
        return RecordedCall(i, parents, header, (5, 6, 7) if decode else (), (3, 4) if decode else (), decode)

    readers = [f"reader-{i}" for i in range(1, agents + 1)]
    calls = [call("document-1"), call("document-2"), call("judge")]
    for i, reader in enumerate(readers):
        first, second = ("document-1", "document-2") if i % 2 else ("document-2", "document-1")
        calls.append(call(reader, first, second, decode=True))
    calls.append(call("final", "judge", *readers, decode=True))
    return Recording(
        f"team agents={agents}", "team", {"agents": agents, "answer_tokens": 3}, "own:1", 46080, tuple(calls)
    )


def run(of: Recording, arm: str, repetition: int, pace: float = 1.0, *, wrong: bool = False) -> Run:
    """`pace` stretches first tokens; the whole varies a little from repetition to repetition."""
    noise = random.Random(f"{arm} {repetition}")
    ends: dict[str, float] = {}
    calls = []
    for call in of.calls:
        if not call.decode and arm not in ("exact", "reuse"):
            ends[call.id] = 0.0
            continue
        ready = max((ends[parent] for parent in call.parents), default=0.0)
        first = pace * (0.2 + 0.02 * noise.random()) if call.decode else 0.0
        total = first + (0.3 if call.decode else 0.1)
        ends[call.id] = ready + total
        calls.append(
            TimedCall(
                call.id, call.parents, call.decode, ready, first / 4, first, total, 62, len(call.content), 40, 10, 12, 2
            )
        )
    tokens = {"in_place": 40, "repositioned": 10, "encoded": 12, "generated": 9, "trailer": 6}
    if arm not in ("exact", "reuse"):
        tokens = {}
    predicted = {**tokens, "encoded": 13} if wrong else tokens
    return Run(of.case, arm, repetition, max(ends.values()), tuple(calls), tokens, predicted, 900, 2700)


def measured(*agents: int) -> list[Record]:
    """A whole file: exact, reuse and a peer, three repetitions."""
    records: list[Record] = [SETUP]
    for count in agents:
        one = recording(count)
        records.append(one)
        for i in range(3):
            records += [
                run(one, "exact", i, 4.0 * count),
                run(one, "reuse", i, 0.2),
                run(one, "llama.cpp", i, 5.0 * count),
            ]
    return records
