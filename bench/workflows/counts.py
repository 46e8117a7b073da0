"""The tokens of a run by class, from the lengths of the recorded parts and the counting rule alone."""

from __future__ import annotations

from pavane.bench.prediction import Lengths, common, predict
from pavane.bench.workflows.records import Recording


def predicted(recording: Recording, arm: str) -> dict[str, int]:
    """By the workflow's closed formula; {} where there is none."""
    if arm not in ("exact", "reuse") or recording.workflow != "debate" or recording.sizes["summary_tokens"]:
        return {}
    calls = {call.id: call for call in recording.calls}
    start, instruction, answer = (calls[i] for i in ("start", "debate", "agent1-round0"))
    lengths = Lengths(
        len(start.tokens),
        len(instruction.tokens),
        len(answer.header),
        len(answer.content),
        len(answer.trailer),
        common(answer.header, instruction.tokens),
        common(start.tokens, instruction.tokens),
    )
    return predict(
        lengths, recording.sizes["agents"], recording.sizes["rounds"], "exact" if arm == "exact" else "reuse"
    )
