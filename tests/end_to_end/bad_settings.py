"""What never fits, and what is wrong with times, attempts, retention, labels and pages."""

from __future__ import annotations

from end_to_end.asking import INVALID, NEVER, Case, X, method, submit
from end_to_end.served import copied, decode, seconds

from pavane.protos.v1 import pavane_pb2 as pb

SETTINGS: list[Case] = [
    # what never fits
    (
        "too long for the model",
        submit(decode("x", max_tokens=9000)),
        NEVER,
        "CONTEXT_TOO_LONG",
        ("'x'", "9006 tokens long", "9002 to come", "limit is 8192"),
    ),
    ("too long for the pool", submit(decode("x", max_tokens=5000)), NEVER, "NEVER_FITS", ("needs 5006", "has 4096")),
    # times, pages
    (
        "timeout 0",
        submit(copied(X, timeout=seconds(0))),
        INVALID,
        "INVALID_REQUEST",
        ("'x'", "timeout", "longer than 0"),
    ),
    ("timeout -1", submit(copied(X, timeout=seconds(-1))), INVALID, "INVALID_REQUEST", ("timeout is -1 s",)),
    ("ttl -2", method("OpenWorkflow", ttl=seconds(-2)), INVALID, "INVALID_REQUEST", ("ttl is -2 s", "leave it out")),
    (
        "deadline 0",
        method("OpenWorkflow", deadline=seconds(0)),
        INVALID,
        "INVALID_REQUEST",
        ("deadline is 0 s", "leave it out"),
    ),
    # what becomes of a message
    ("seal a prefill", method("Finish", ids=["good"]), NEVER, "NOT_A_DECODE", ("'good' is a Prefill", "only decodes")),
    ("max_attempts 17", submit(copied(X, max_attempts=17)), INVALID, "INVALID_REQUEST", ("'x'", "is 17; use 1 to 16")),
    *(
        (f"retention {said}", submit(copied(X, retention=pb.Retention(**fields))), INVALID, "INVALID_REQUEST", words)
        for fields, said, words in [
            ({"ttl": seconds(0)}, "ttl 0", ("'x'", "retention.ttl is 0 s", "longer than 0")),
            ({"ttl": seconds(-0.5)}, "ttl -0.5", ("retention.ttl is -0.5 s",)),
            ({"readers": 100_001}, "readers", ("'x'", "retention.readers is 100001; use at most 100000")),
        ]
    ),
    *(
        (f"labels: {said}", submit(copied(X, labels=labels)), INVALID, "INVALID_REQUEST", ("'x'", words))
        for labels, said, words in [
            ({str(i): "" for i in range(17)}, "17", "17 labels; at most 16"),
            ({"": "a"}, "no name", "label '' has a name of 0 characters; use 1 to 256"),
            ({"a" * 257: "b"}, "a long name", "a name of 257 characters; use 1 to 256"),
            ({"run": "a" * 257}, "a long value", "label 'run' has a value of 257 characters; use at most 256"),
        ]
    ),
    ("a page of nothing", method("ListMessages", page_token="4;7"), INVALID, "INVALID_REQUEST", ("page_token",)),
]
