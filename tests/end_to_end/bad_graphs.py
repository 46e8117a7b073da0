"""What is wrong with ids, parents, groups and places."""

from __future__ import annotations

from end_to_end.asking import INVALID, MISSING, PARENT, TAKEN, Case, X, copy, grouped, method, submit, within
from end_to_end.served import PATIENCE, decode, prefill, stored

from pavane.protos.v1 import pavane_pb2 as pb

GRAPHS: list[Case] = [
    # unknown
    *(
        (f"{name} unknown workflow", method(name, workflow_id="nowhere", **fields), MISSING, "UNKNOWN_WORKFLOW", words)
        for words in [("'nowhere'", "OpenWorkflow")]
        for name, fields in {
            "CloseWorkflow": {},
            "Submit": {"calls": [X]},
            "Watch": {},
            "Cancel": {"ids": ["good"]},
            "Finish": {"ids": ["good"]},
            "Release": {"ids": ["good"]},
            "GetMessage": {"id": "good"},
            "ListMessages": {},
        }.items()
    ),
    (
        "Run unknown workflow",
        lambda wire: wire.rpc.Run(
            pb.RunRequest(submit=pb.SubmitRequest(workflow_id="nowhere", calls=[X])), timeout=PATIENCE
        ).read(),
        MISSING,
        "UNKNOWN_WORKFLOW",
        ("'nowhere'",),
    ),
    *(
        (f"{name} unknown message", method(name, **fields), MISSING, "UNKNOWN_MESSAGE", ("no message 'nobody'",))
        for name, fields in {
            "Watch": {"ids": ["good", "nobody"]},
            "Cancel": {"ids": ["good", "nobody"]},
            "Finish": {"ids": ["nobody"]},
            "Release": {"ids": ["nobody"]},
            "GetMessage": {"id": "nobody"},
        }.items()
    ),
    ("unknown parent", submit(decode("x", ["good", "nobody"])), MISSING, "UNKNOWN_MESSAGE", ("'nobody'",)),
    ("copy of nobody", submit(copy("x", "nobody")), MISSING, "UNKNOWN_MESSAGE", ("'nobody'",)),
    # ids
    *(
        (f"malformed {what} {id[:9]!r}", request, INVALID, "INVALID_ID", ("is not valid", "A-Z a-z 0-9 . _ -"))
        for id in ("", "a b", "ä", "x/y", "new\nline", "a" * 65, "a" * 10_000)
        for what, request in {
            "workflow": method("OpenWorkflow", workflow_id=id),
            "call": submit(prefill(id, "?")),
            "parent": submit(decode("x", [id])),
        }.items()
    ),
    ("malformed copied id", submit(copy("x", "a b")), INVALID, "INVALID_ID", ("'a b'", "copied")),
    ("malformed namespace", within("a b"), INVALID, "INVALID_ID", ("namespace 'a b'", "at most 64")),
    ("long namespace", within("a" * 65), INVALID, "INVALID_ID", ("at most 64",)),
    ("id reused", submit(prefill("good", "Other.")), TAKEN, "ID_REUSED", ("'good'", "choose a new one")),
    ("id twice", submit(X, prefill("x", "Other.")), TAKEN, "ID_REUSED", ("'x'", "choose a new one")),
    # the graph
    ("no calls", submit(), INVALID, "INVALID_REQUEST", ("no calls",)),
    ("neither kind", submit(pb.Call(id="x")), INVALID, "INVALID_REQUEST", ("'x'", "neither", "set one")),
    ("a parent twice", submit(decode("x", ["good", "good"])), INVALID, "INVALID_PARENT", ("'good' twice", "Copy")),
    ("its own parent", submit(decode("x", ["x"])), INVALID, "CYCLE", ("x <- x", "remove one")),
    ("its own copy", submit(copy("x", "x")), INVALID, "CYCLE", ("x <- x",)),
    (
        "a cycle",
        submit(decode("a", ["c"]), copy("b", "a"), decode("c", ["good", "b"])),
        INVALID,
        "CYCLE",
        ("a <- c <- b <- a", "remove one of these edges"),
    ),
    (
        "too many parents",
        submit(decode("x", [f"p{i}" for i in range(513)])),
        INVALID,
        "TOO_LARGE",
        ("513 parents", "limit is 512"),
    ),
    (
        "graph too large",
        submit(*(stored(f"m{i}", 1) for i in range(201))),
        INVALID,
        "TOO_LARGE",
        ("201", "at most 200"),
    ),
    # groups
    *(
        (f"group: {said}", grouped(*calls, **fields), code, reason, words)
        for said, calls, fields, code, reason, words in [
            ("needs none", (), {"need": 0}, INVALID, "INVALID_GROUP", ("'g' needs 0 of 1 members", "1..1")),
            ("needs too many", (), {"need": 2}, INVALID, "INVALID_GROUP", ("'g' needs 2 of 1 members",)),
            ("has none", (), {"members": []}, INVALID, "INVALID_GROUP", ("'g' needs 1 of 0 members",)),
            ("twice", (), {"members": ["good"] * 2}, INVALID, "INVALID_PARENT", ("'good' twice", "name it once")),
            ("nobody", (), {"members": ["good", "nobody"]}, MISSING, "UNKNOWN_MESSAGE", ("no message 'nobody'",)),
            ("in itself", (), {"members": ["g"]}, INVALID, "INVALID_GROUP", ("the group 'g' where only a message",)),
            ("copied", (copy("x", "g"),), {}, INVALID, "INVALID_GROUP", ("'x' names the group 'g'",)),
            ("of its reader", (decode("x", ["g"]),), {"members": ["x"]}, INVALID, "CYCLE", ("x <- g <- x",)),
            ("a message's id", (), {"id": "good"}, TAKEN, "ID_REUSED", ("'good'", "choose a new one")),
            ("a call's id", (prefill("g", "?"),), {}, TAKEN, "ID_REUSED", ("'g'", "choose a new one")),
            ("malformed id", (), {"id": "a b"}, INVALID, "INVALID_ID", ("group id 'a b'",)),
            ("malformed member", (), {"members": ["a b"]}, INVALID, "INVALID_ID", ("'g': member id 'a b'",)),
            (
                "too large",
                (),
                {"members": [f"p{i}" for i in range(513)]},
                INVALID,
                "TOO_LARGE",
                ("513 members", "limit is 512"),
            ),
        ]
    ),
    # placement
    *(
        (f"offset {at}", submit(decode("x", [PARENT(id="good", offset=at)])), INVALID, "INVALID_PLACEMENT", words)
        for at in (-1, -(2**31), 8192, 2**31 - 1)
        for words in [("'good'", f"offset {at};", "0..8191")]
    ),
    *(
        (f"start {at}", submit(decode("x", ["good"], start=at)), INVALID, "INVALID_PLACEMENT", words)
        for at in (-1, 8192, 2**31 - 1)
        for words in [(f"starts at {at};", "0..8191")]
    ),
]
