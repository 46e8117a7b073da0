"""What is wrong with text, tokens, sampling options and constraints."""

from __future__ import annotations

from end_to_end.asking import (
    INVALID,
    PARENT,
    VOCABULARY,
    Case,
    X,
    constrained,
    copy,
    forced,
    given,
    header,
    model,
    sampled,
    submit,
)
from end_to_end.served import copied, decode, prefill, turns

from pavane.protos.v1 import pavane_pb2 as pb

CONTENT: list[Case] = [
    # content
    ("empty header", submit(header()), INVALID, "EMPTY_CONTENT", ("'x'", "empty header", "turn or tokens")),
    ("no header", submit(pb.Call(id="x", decode=pb.Decode())), INVALID, "EMPTY_CONTENT", ("empty header",)),
    ("header of no tokens", submit(header(tokens=pb.Tokens())), INVALID, "EMPTY_CONTENT", ("empty header",)),
    ("no content", submit(given()), INVALID, "EMPTY_CONTENT", ("'x'", "turns, text, tokens or copy")),
    ("no turns", submit(given(turns=pb.Turns())), INVALID, "EMPTY_CONTENT", ("no turns", "give it one")),
    ("no text", submit(given(text="")), INVALID, "EMPTY_CONTENT", ("no tokens", "at least one")),
    ("no tokens", submit(given(tokens=pb.Tokens())), INVALID, "EMPTY_CONTENT", ("no tokens", "at least one")),
    ("Tokenize nothing", model("Tokenize"), INVALID, "EMPTY_CONTENT", ("no content",)),
    (
        "Tokenize a copy",
        model("Tokenize", content=copy("x", "y").prefill),
        INVALID,
        "INVALID_REQUEST",
        ("turns or text",),
    ),
    (
        "unknown role",
        submit(pb.Call(id="x", prefill=turns(("wizard", "?")))),
        INVALID,
        "INVALID_REQUEST",
        ("'x'", "'wizard'", "use one of", "user"),
    ),
    (
        "a name",
        submit(header(turn=pb.Turn(role="assistant", name="Bob"))),
        INVALID,
        "INVALID_REQUEST",
        ("'Bob'", "leave name"),
    ),
    # tokens
    *(
        (
            f"token {id} in {what}",
            submit(call),
            INVALID,
            "INVALID_TOKENS",
            ("'x'", f"{id} is not in 0..{VOCABULARY - 1}"),
        )
        for id in (VOCABULARY, 2**32 - 1)
        for what, call in {
            "content": prefill("x", tokens=[5, id]),
            "header": header(tokens=pb.Tokens(ids=[5, id])),
            "forced": decode("x", forced=pb.Forced(ids=[5, id])),
        }.items()
    ),
    ("Detokenize", model("Detokenize", ids=[VOCABULARY]), INVALID, "INVALID_TOKENS", (f"0..{VOCABULARY - 1}",)),
    # enums
    ("layout 7", submit(copied(X, layout=7)), INVALID, "INVALID_REQUEST", ("'x'", "layout 7 is unknown")),
    ("fidelity -3", submit(copied(X, fidelity=-3)), INVALID, "INVALID_REQUEST", ("fidelity -3 is unknown",)),
    (
        "fidelity 9 of an edge",
        submit(decode("x", [PARENT(id="good", fidelity=9)])),  # type: ignore[arg-type]
        INVALID,
        "INVALID_REQUEST",
        ("fidelity of a parent 9 is unknown",),
    ),
    # sampling
    sampled("temperature is -1; use 0 (greedy)", temperature=-1.0),
    sampled("temperature is nan", temperature=float("nan")),
    sampled("temperature is inf", temperature=float("inf")),
    sampled("top_p is 0; use more than 0", top_p=0.0),
    sampled("top_p is 1.5", top_p=1.5),
    sampled("top_p is nan", top_p=float("nan")),
    sampled("min_p is -0.5; use 0 (off) to 1", min_p=-0.5),
    sampled("min_p is 2", min_p=2.0),
    sampled("top_k is 2147483648", top_k=2**31),
    sampled("max_tokens is 0; use at least 1", max_tokens=0),
    sampled("logprobs is 21; use 1 for those", logprobs=21),
    sampled("repetition_penalty is 0; use more than 0", repetition_penalty=0.0),
    sampled("repetition_penalty is -1", repetition_penalty=-1.0),
    sampled("repetition_penalty is 10.5; use more than 0, up to 10", repetition_penalty=10.5),
    sampled("repetition_penalty is nan", repetition_penalty=float("nan")),
    *(
        sampled(f"{name} is {said}; use -2 to 2", **{name: value})
        for name in ("presence_penalty", "frequency_penalty")
        for said, value in {"2.5": 2.5, "-3": -3.0, "nan": float("nan"), "inf": float("inf")}.items()
    ),
    sampled(f"logit_bias: token id {VOCABULARY} is not in 0..{VOCABULARY - 1}", logit_bias={VOCABULARY: 1.0}),
    sampled("logit_bias of token 5 is 101; use -100 to 100", logit_bias={5: 101.0}),
    sampled("logit_bias of token 5 is inf; use -100 to 100, or -inf", logit_bias={5: float("inf")}),
    sampled("logit_bias of token 5 is nan", logit_bias={5: float("nan")}),
    sampled("1025 logit biases; at most 1024", logit_bias=dict.fromkeys(range(1025), 1.0)),
    sampled("min_tokens is 5, max_tokens only 4; lower the one", min_tokens=5, max_tokens=4),
    sampled("min_tokens is 2147483648", min_tokens=2**31),
    sampled("17 stop strings; at most 16", stop=["a"] * 17),
    sampled("a stop string is empty; leave it out", stop=["a", ""]),
    sampled("longer than 256 characters", stop=["a" * 257]),
    sampled(f"stop token id {VOCABULARY} is not in", stop_token_ids=[VOCABULARY]),
    sampled("ignore_eos is set, but [2] are stop_token_ids; drop one", stop_token_ids=[2], ignore_eos=True),
    forced("forced has no ids; leave it out", []),
    forced("drop stop and stop_token_ids", [5], stop=["a"]),
    forced("drop stop and stop_token_ids", [5], stop_token_ids=[7]),
    forced("drop regex", [5], regex="a+"),
    forced("forces 2 tokens and sets max_tokens 3; leave max_tokens out", [5, 6], max_tokens=3),
    # constraints
    constrained("is not JSON: Expecting property name", json_schema="{"),
    constrained("is not JSON: maximum recursion depth", json_schema='{"a":' * 2000),
    constrained("is no JSON object; use {} for any JSON", json_schema="[]"),
    constrained("Invalid type: objekt", json_schema='{"type": "objekt"}'),
    constrained("Unimplemented keys", json_schema='{"not": {}}'),
    constrained("Unsatisfiable schema: minimum (5)", json_schema='{"type": "integer", "minimum": 5, "maximum": 3}'),
    constrained("is not JSON: there is no number NaN", json_schema='{"const": NaN}'),
    constrained("recursion limit exceeded", json_schema='{"items":' * 200 + "{}" + "}" * 200),
    constrained("end of hex escape", json_schema='{"const": "\\ud800"}'),
    constrained("has the number -9223372036854775808; leave out", json_schema='{"const": -9223372036854775808}'),
    constrained("has the number -1e30", grammar='start: %json\n {"type": "integer", "minimum": -1e30}'),
    constrained("does not exist", json_schema='{"$ref": "#/$defs/nowhere"}'),
    constrained("'http://127.0.0.1:9/x' is not present", json_schema='{"$ref": "http://127.0.0.1:9/x"}'),
    constrained("unclosed group", regex="(("),
    constrained("it ends in a backslash", regex="a\\\\\\"),
    constrained("look-around", regex="a(?=b)"),
    constrained("is satisfied by no text; loosen it", regex=r"[^\s\S]"),
    constrained("is 65537 characters long; at most 65536", regex="a" * 65537),
    constrained("unknown name", grammar="start: nowhere"),
    constrained("is satisfied by no text; loosen it", grammar="start: start"),
    constrained("is satisfied by no text; loosen it", grammar="start: <|im_end|>"),  # which is no text
    constrained("Empty grammar", grammar=""),
    constrained("too deeply nested", grammar="start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
]
