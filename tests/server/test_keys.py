"""Files of API keys, and what a key lets its holder do."""

from __future__ import annotations

import pytest

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.auth import Caller, Guard
from pavane.server.keys import LONGEST, PREFIX, ApiKey, Role, digest, make_key, new_secret, parse_keys

# The same in every process: names of tests are made of them, and pytest-xdist compares these between its workers.
SECRETS = [f"{PREFIX}{'abcd'[i] * 43}" for i in range(4)]
HASHES = [f"sha256:{digest(secret).hex()}" for secret in SECRETS]
NOW = 1_800_000_000.0
SUBMIT, STATS = "/pavane.v1.WorkflowService/Submit", "/pavane.v1.AdminService/GetStats"


def guard(text: str, now: float = NOW) -> Guard:
    return Guard(parse_keys(text), lambda: now)


def bearer(secret: str, *more: tuple[str, str]) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {secret}"), *more]


def refusal(made: Guard, metadata: list[tuple[str, str | bytes]], method: str = SUBMIT) -> RequestError:
    with pytest.raises(RequestError) as caught:
        made.caller(method, metadata)
    assert not any(secret in caught.value.text for secret in SECRETS)
    return caught.value


def test_keys_are_long_random_and_told_apart_from_other_words() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("pvn_") and 46 <= len(secret) <= LONGEST for secret in made)


def test_a_line_says_what_the_key_may_do() -> None:
    full = "tenant=team-a role=admin priority=-3 shared=docs,library name=ci@host expires=2027-01-15T08:00:00Z"
    keys = parse_keys(f"# ours\n\n{HASHES[0]} {full}\n  {HASHES[1]}\ttenant=\n")
    assert len(keys) == 2
    assert keys.find(SECRETS[0]) == ApiKey(
        digest(SECRETS[0]), "team-a", Role.ADMIN, -3, frozenset({"docs", "library"}), "ci@host", NOW
    )
    assert keys.find(SECRETS[1]) == ApiKey(digest(SECRETS[1]), "")
    assert keys.find(SECRETS[2]) is None
    assert keys.find(SECRETS[0] + " " * LONGEST) is None
    assert [key.line() for key in keys] == [f"{HASHES[0]} {full}", f"{HASHES[1]} tenant= role=user"]
    assert digest(SECRETS[0]).hex() not in repr(keys.find(SECRETS[0]))


def test_a_date_is_the_midnight_at_its_beginning() -> None:
    dated, moment = (make_key(b"", "a", expires=word) for word in ("2027-01-15", "2027-01-15T00:00:00+00:00"))
    assert dated.expires == moment.expires
    assert not dated.expired(dated.expires - 1)
    assert dated.expired(dated.expires)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n\t\n", "empty"),
        (f"{SECRETS[0]} tenant=a", "line 1: it does not begin with sha256:"),
        (f"# x\n\n{HASHES[0][:-1]} tenant=a", "line 3: it does not begin with sha256:"),
        (HASHES[0].upper() + " tenant=a", "line 1: it does not begin"),
        (HASHES[0], "tenant=NAMESPACE is missing"),
        (f"{HASHES[0]} tenant=a tenant=b", "tenant is there twice"),
        (f"{HASHES[0]} tenant=a/b", "tenant='a/b'"),
        (f"{HASHES[0]} tenant={'a' * 65}", "at most 64"),
        (f"{HASHES[0]} tenant=a role=root", "role='root'; use user or admin"),
        (f"{HASHES[0]} tenant=a priority=high", "priority='high'"),
        (f"{HASHES[0]} tenant=a priority=9999999999", "priority='9999999999'"),
        (f"{HASHES[0]} tenant=a shared=b,,c", "empty name"),
        (f"{HASHES[0]} tenant=a shared=b,c!", "shared='c!'"),
        (f"{HASHES[0]} tenant=a name=a=b", "name='a=b'"),
        (f"{HASHES[0]} tenant=a expires=tomorrow", "expires='tomorrow'"),
        (f"{HASHES[0]} tenant=a max_running=3", "'max_running=3' is none of tenant=, .*--tenants"),
        (f"{HASHES[0]} tenant=a admin", "'admin' is none of"),
        (f"{HASHES[0]} tenant=a\n{HASHES[0]} tenant=b", "line 2: this key is there twice"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_keys(text)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_without_keys_everybody_comes_in_with_the_namespace_they_name() -> None:
    made = Guard(None)
    assert made.caller(SUBMIT, []) == Caller("")
    assert made.caller(STATS, [("pavane-namespace", "a"), ("authorization", "Bearer x")]) == Caller("a")
    assert refusal(made, [("pavane-namespace", "a b")]).reason is Reason.INVALID_ID
    assert refusal(made, [("pavane-namespace", "a"), ("pavane-namespace", "b")]).reason is Reason.INVALID_REQUEST


def test_the_namespace_is_that_of_the_key() -> None:
    made = guard(f"{HASHES[0]} tenant=a shared=docs\n{HASHES[1]} tenant=b")
    assert made.caller(SUBMIT, bearer(SECRETS[0])).namespace == "a"
    for named in ("a", "docs"):
        assert made.caller(SUBMIT, bearer(SECRETS[0], ("pavane-namespace", named))).namespace == named
    for secret, named in ((SECRETS[0], "b"), (SECRETS[0], ""), (SECRETS[1], "docs"), (SECRETS[1], "a")):
        error = refusal(made, bearer(secret, ("pavane-namespace", named)))
        assert error.reason is Reason.PERMISSION_DENIED
        assert f"may not use the namespace {named!r}" in error.text
        assert "shared=" in error.text


def test_who_has_no_key_stays_outside() -> None:
    made = guard(f"{HASHES[0]} tenant=a\n{HASHES[1]} tenant=a expires=2027-01-15T08:00:00Z")
    known = bearer(SECRETS[0])
    assert made.caller(SUBMIT, [("authorization", f"bearer  {SECRETS[0]}")]).namespace == "a"
    for metadata, words in (
        ([], "asks for an API key"),
        ([("authorization", SECRETS[0])], "no bearer token"),
        ([("authorization", f"Basic {SECRETS[0]}")], "no bearer token"),
        (bearer(""), "not one of this server's"),
        (bearer(SECRETS[2]), "not one of this server's"),
        (bearer(SECRETS[0][:-1]), "not one of this server's"),
        (bearer(SECRETS[1]), "expired on 2027-01-15 08:00:00 UTC"),
    ):
        error = refusal(made, metadata)
        assert error.reason is Reason.UNAUTHENTICATED
        assert words in error.text
    assert refusal(made, [*known, *known]).reason is Reason.INVALID_REQUEST
    assert refusal(guard("# nobody"), known).reason is Reason.UNAUTHENTICATED


def test_the_admin_service_asks_for_the_role() -> None:
    made = guard(f"{HASHES[0]} tenant=a\n{HASHES[1]} tenant=ops role=admin")
    assert made.caller(STATS, bearer(SECRETS[1])).namespace == "ops"
    error = refusal(made, bearer(SECRETS[0]), STATS)
    assert (error.reason, "role=admin" in error.text) == (Reason.PERMISSION_DENIED, True)


def test_a_key_goes_as_high_as_it_may() -> None:
    for highest, asked, given in (
        (None, 9, 9),
        (5, 5, 5),
        (5, -7, -7),
        (5, None, None),
        (0, None, None),
        (-2, None, -2),
    ):
        key = ApiKey(b"", "a", priority=highest)
        assert Caller("a", key).priority(asked) == given
    assert Caller("a").priority(9) == 9
    with pytest.raises(RequestError, match=r"priority is 6; this API key may ask for 5 at most") as caught:
        Caller("a", ApiKey(b"", "a", priority=5)).priority(6)
    assert caught.value.reason is Reason.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("later", "stays"),
    [
        (f"{HASHES[0]} tenant=a shared=docs name=renamed", True),
        (f"{HASHES[1]} tenant=a", False),
        (f"{HASHES[0]} tenant=a", False),
        (f"{HASHES[0]} tenant=b shared=docs", True),
        (f"{HASHES[0]} tenant=a shared=docs role=admin", False),
        (f"{HASHES[0]} tenant=a shared=docs expires=2020-01-01", False),
    ],
)
def test_open_streams_live_by_the_newest_file(later: str, stays: bool) -> None:
    made = guard(f"{HASHES[0]} tenant=a shared=docs")
    one = made.caller(SUBMIT, bearer(SECRETS[0], ("pavane-namespace", "docs")))
    made.check(one)
    made.replace(parse_keys(later))
    if stays:
        made.check(one)
        return
    with pytest.raises(RequestError) as caught:
        made.check(one)
    assert caught.value.reason is Reason.UNAUTHENTICATED
