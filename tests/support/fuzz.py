"""Messages drawn from descriptors: mostly almost right, so that they come far, and then bytes of them changed."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass

WORKFLOWS = ["w0", "w1"]
TEXTS = ["", "Hello", "<|im_end|>", "é\u0301\u200d", "\x00\x1b", "0" * 64, " \n\t", "\U0001f600" * 9]
WORDS: dict[str, list[str]] = {  # what a field of this name usually holds
    "workflow_id": WORKFLOWS,
    "namespace": ["", "a", "b"],
    "name": [""],
    "role": ["user", "assistant", "system", "tool"],
    "stop": ["#", "b"],
    "page_token": ["", "0", "3", "/w1", "a/w1"],
    "json_schema": ['{"type": "integer"}', '{"enum": ["yes", "no"]}', "{", '{"$ref": "#"}'],
    "regex": ["[a-z]+", "(a|b)*c", "(", "a{2,1}"],
    "grammar": ['start: "a" | "b" start', "start: nothing", ""],
}
NUMBERS: dict[str, list[float]] = {
    "temperature": [0.0, 1.0],
    "top_p": [0.5, 1.0],
    "min_p": [0.0, 0.1],
    "repetition_penalty": [1.0, 1.5],
    "top_k": [0, 5],
    "max_tokens": [1, 5, 40],
    "min_tokens": [0, 1],
    "logprobs": [0, 1, 3],
    "max_attempts": [0, 1, 3],
    "need": [1],
    "offset": [0, 7],
    "start": [50, 100],
    "seconds": [1, 100],
    "nanos": [0, 5],
    "after": [0, 5],
    "budget_tokens": [0, 10**9],
    "assumed_tokens": [5],
}
SANE_INTEGERS, SANE_FLOATS = [0, 1, 2, 3, 7, 300, 310, 590], [0.0, 1.0, 0.5]
INTEGERS = [0, 1, 2, 3, 4, 7, 16, 100, 300, 301, 590, 591, 1024, 65_536, 2**31 - 1, -1, -(2**31), 2**32 - 1, 2**63 - 1]
FLOATS = [0.0, 1.0, 0.5, -1.0, 2.0, -2.0, 100.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf")]
TYPE = FieldDescriptor
_SIGNED = {TYPE.CPPTYPE_INT32: 32, TYPE.CPPTYPE_INT64: 64}
_UNSIGNED = {TYPE.CPPTYPE_UINT32: 32, TYPE.CPPTYPE_UINT64: 64}
DEEPEST = 6


class Fuzzer:
    """The same seed draws the same messages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._sane = True
        self._calls = 0
        self._named = ["m0"]

    def data(self, descriptor: Descriptor) -> bytes:
        """Bytes of a request: half of them whole, the others spoiled."""
        self._sane = self.random.random() < 0.5
        data = self.message(descriptor).SerializeToString()
        for _ in range(0 if self._sane else self.random.choice((0, 0, 1, 2, 8))):
            data = self._spoil(data)
        return data

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        made = GetMessageClass(descriptor)()
        for field in self._fields(descriptor):
            if depth > DEEPEST or self.random.random() > self._share(field):
                continue
            try:
                self._fill(made, field, depth)
            except (ValueError, EncodeError):  # out of the range of the field: left out
                made.ClearField(field.name)
        return made

    def _fields(self, descriptor: Descriptor) -> list[FieldDescriptor]:
        """One of each oneof."""
        fields = [field for field in descriptor.fields if field.containing_oneof is None]
        return fields + [self.random.choice(oneof.fields) for oneof in descriptor.oneofs]

    def _share(self, field: FieldDescriptor) -> float:
        """How often a field is set: names nearly always, what is rarely right on top of all else rarely."""
        if field.name in (
            "workflow_id",
            "id",
            "submit",
            "calls",
            "header",
            "call",
            "max_tokens",
            "role",
            "seconds",
            "need",
        ):
            return 1.0 if self._sane else 0.97
        if field.name == "turns" and field.is_repeated:
            return 1.0
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_"):
            return {"constraint": 0.05, "placement": 0.1}.get(oneof.name, 1.0 if self._sane else 0.95)
        if field.name == "ids" and field.cpp_type != TYPE.CPPTYPE_STRING:
            return 0.95
        return 0.1 if self._sane else 0.25

    def _fill(self, made: Message, field: FieldDescriptor, depth: int) -> None:
        value_of: Any = field.message_type.fields_by_name["value"] if _is_map(field) else None
        if value_of is not None:
            for _ in range(0 if self._sane else self.random.randrange(4)):
                key = self._scalar(field.message_type.fields_by_name["key"])
                getattr(made, field.name)[key] = self._scalar(value_of)
        elif field.is_repeated:
            count = self.random.choice((1, 1, 2) if self._sane else (0, 1, 1, 2, 3, 5))
            if not self._sane and self.random.random() < 0.02:
                count = 600
            if field.cpp_type == TYPE.CPPTYPE_MESSAGE:
                getattr(made, field.name).extend(
                    self.message(field.message_type, depth + 1) for _ in range(min(count, 20))
                )
            else:
                getattr(made, field.name).extend(self._scalar(field) for _ in range(count))
        elif field.cpp_type == TYPE.CPPTYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(made, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        draw, kind = self.random, field.cpp_type
        if kind == TYPE.CPPTYPE_STRING:
            if field.type == TYPE.TYPE_BYTES:
                return draw.randbytes(draw.randrange(9))
            if not self._sane and draw.random() < 0.1:
                return draw.choice([*TEXTS, "x" * 65, "a b", "../w0"])
            if field.name in ("id", "ids", "of", "members"):
                return self._name(field.containing_type.name == "Call")
            return draw.choice(WORDS.get(field.name, TEXTS))
        if kind == TYPE.CPPTYPE_BOOL:
            return draw.random() < 0.5
        if kind == TYPE.CPPTYPE_ENUM:
            odd = not self._sane and draw.random() < 0.2
            return draw.randrange(-1, 9) if odd else draw.choice(field.enum_type.values).number
        if kind in (TYPE.CPPTYPE_FLOAT, TYPE.CPPTYPE_DOUBLE):
            usual = NUMBERS.get(field.name, SANE_FLOATS)
            return draw.choice(usual if self._sane or draw.random() < 0.7 else FLOATS)
        small = NUMBERS.get(field.name, SANE_INTEGERS)
        low = int(draw.choice(small if self._sane or draw.random() < 0.7 else INTEGERS))
        if kind in _UNSIGNED:
            return low % 2 ** _UNSIGNED[kind]
        return max(-(2 ** (_SIGNED[kind] - 1)), min(low, 2 ** (_SIGNED[kind] - 1) - 1))

    def _name(self, new: bool) -> str:
        """Of a call, mostly one that was not there yet; else mostly one of the last."""
        if self.random.random() < (0.8 if new else 0.02):
            self._calls += 1
            self._named = [*self._named[-7:], f"m{self._calls}"]
            return self._named[-1]
        return self.random.choice(self._named)

    def _spoil(self, data: bytes) -> bytes:
        draw = self.random
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.randrange(1, 9))
        kind = draw.randrange(5)
        if kind == 0:
            return data[:at]
        if kind == 1:
            return data[:at] + data[to:]
        if kind == 2:
            return data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:]
        if kind == 3:
            return data[:to] + data[at:]
        return data[:at] + bytes(byte ^ (1 << draw.randrange(8)) for byte in data[at:to]) + data[to:]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
