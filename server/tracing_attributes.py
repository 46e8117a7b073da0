"""What spans say: in OpenTelemetry's semantic conventions for generative AI, and `pavane.*` where these have no word.

Counts, times and settings only: no prompt, no answer, no stop string, no constraint.
"""

from __future__ import annotations

from collections.abc import Mapping

from pavane.scheduler.spec import DecodeSpec, Finish, ParentUse, Receipt
from pavane.server.tracing import CallSpan, Trace

Value = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Value]

PROVIDER = "pavane"
_FINISHES = {Finish.END_OF_TURN: "stop", Finish.STOP: "stop"}  # the conventions' word; others have only ours
_COUNTS = ("in_place", "repositioned", "encoded", "generated", "trailer", "reencoded")


def operation(span: CallSpan) -> str:
    """A decode is a chat if its message is a turn, else a completion; for a prefill there is no word."""
    if span.decode is None:
        return "prefill"
    return "chat" if span.decode.trailer else "text_completion"


def call_attributes(span: CallSpan, model: str) -> Attributes:
    receipt = span.receipt
    found: dict[str, Value] = {
        **_common(span.trace, model),
        "gen_ai.operation.name": operation(span),
        "gen_ai.response.model": model,
        "gen_ai.response.id": span.id,
        "gen_ai.usage.input_tokens": receipt.in_place + receipt.repositioned + receipt.encoded,
        "gen_ai.usage.cache_read.input_tokens": receipt.in_place + receipt.repositioned,
        "gen_ai.usage.output_tokens": receipt.generated,
        "pavane.call.state": span.state.value,
        "pavane.call.attempts": span.attempts,
        "pavane.call.preemptions": receipt.preemptions,
        **_receipt(receipt),
    }
    if span.request_id:
        found["pavane.request.id"] = span.request_id
    if span.decode is not None:
        found |= _settings(span.decode)
    if span.finish is not None:
        found["gen_ai.response.finish_reasons"] = (_FINISHES.get(span.finish, span.finish.value),)
        found["pavane.call.finish"] = span.finish.value
    if receipt.first_token_s:
        found["gen_ai.response.time_to_first_chunk"] = receipt.blocked_s + receipt.first_token_s
    if span.reason:
        found["error.type"] = span.reason
    return found | {f"pavane.label.{name}": value for name, value in span.labels}


def workflow_attributes(trace: Trace, model: str) -> Attributes:
    return {**_common(trace, model), "gen_ai.operation.name": "invoke_workflow"}


def total_attributes(total: Receipt) -> Attributes:
    """Of a workflow that is closed."""
    return {
        "gen_ai.usage.input_tokens": total.in_place + total.repositioned + total.encoded,
        "gen_ai.usage.output_tokens": total.generated,
        **_receipt(total),
    }


def link_attributes(message_id: str, use: ParentUse | None) -> Attributes:
    """Of the link to a message that was read; `use` is None if it did not come so far."""
    if use is None:
        return {"pavane.parent.id": message_id}
    return {
        "pavane.parent.id": message_id,
        "pavane.parent.fidelity": "exact" if use.exact else "reuse",
        "pavane.parent.tokens": use.tokens,
        "pavane.parent.placed_at": use.placed_at,
        "pavane.parent.encoded_at": use.encoded_at,
    }


def _common(trace: Trace, model: str) -> dict[str, Value]:
    namespace, workflow = trace.key
    return {
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.conversation.id": workflow,
        "pavane.tenant": namespace,
    }


def _settings(decode: DecodeSpec) -> dict[str, Value]:
    found: dict[str, Value] = {
        "gen_ai.request.temperature": decode.temperature,
        "gen_ai.request.top_p": decode.top_p,
        "gen_ai.request.seed": decode.seed,
    }
    for name in ("max_tokens", "top_k", "frequency_penalty", "presence_penalty"):  # where they are set
        value = getattr(decode, name)
        if value:
            found[f"gen_ai.request.{name}"] = value
    return found


def _receipt(receipt: Receipt) -> dict[str, Value]:
    counts: dict[str, Value] = {f"pavane.tokens.{name}": getattr(receipt, name) for name in _COUNTS}
    times: dict[str, Value] = {"pavane.blocked_s": receipt.blocked_s, "pavane.queued_s": receipt.queued_s}
    return counts | times
