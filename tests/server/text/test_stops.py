import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pavane.server.text.stops import StopMatcher
from pavane.server.text.tokenizer import Tokenizer

alphabet = st.text(alphabet="ab €\n", max_size=12)
stops_of = st.lists(st.text(alphabet="ab €\n", min_size=1, max_size=4), max_size=3)


def run(matcher: StopMatcher, ids: list[int]) -> tuple[int, tuple[int, ...] | None]:
    for count, id in enumerate(ids, 1):
        kept = matcher.push(id)
        if kept is not None:
            return count, kept
    return len(ids), None


def first_match(initial: str, text: str, stops: list[str]) -> int | None:
    """Where in `text` the first stop string begins (0 if before it), by looking at whole strings."""
    whole = initial + text
    begins = [
        at
        for stop in stops
        for at in range(len(whole) - len(stop) + 1)
        if whole.startswith(stop, at) and at + len(stop) > len(initial)
    ]
    return max(0, min(begins) - len(initial)) if begins else None


@settings(deadline=None, max_examples=300)
@given(initial=alphabet, text=alphabet, stops=stops_of, bytewise=st.booleans())
def test_like_searching_the_text_after_every_token(
    tokenizer: Tokenizer, initial: str, text: str, stops: list[str], bytewise: bool
) -> None:
    ids = tokenizer.encode(text, special=False)
    if bytewise:
        ids = [id for byte in text.encode() for id in tokenizer.encode_bytes(bytes([byte]))]
    matcher = StopMatcher(tokenizer, stops, initial)
    for count, id in enumerate(ids, 1):
        data = b"".join(map(tokenizer.bytes_of, ids[:count]))
        seen = data.decode(errors="ignore")
        cut = first_match(initial, seen, stops)
        kept = matcher.push(id)
        assert (kept is None) == (cut is None)
        if kept is not None:
            text_kept = seen[:cut].encode()
            assert b"".join(map(tokenizer.bytes_of, kept)) == text_kept
            whole = sum(len(b"".join(map(tokenizer.bytes_of, ids[:n]))) <= len(text_kept) for n in range(1, count + 1))
            assert list(kept[:whole]) == ids[:whole]
            return
        sizes = [size for stop in stops for size in range(len(stop)) if (initial + seen).endswith(stop[:size])]
        expected = min(max(sizes, default=0), len(seen))
        # The first bytes of a character may already rule a stop string out.
        assert matcher.held() <= expected if seen.encode() != data else matcher.held() == expected


@settings(deadline=None)
@given(text=alphabet, stops=stops_of)
def test_what_is_not_held_is_never_taken_back(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    matcher, seen, shown = StopMatcher(tokenizer, stops, ""), b"", ""
    for byte in text.encode():
        (id,) = tokenizer.encode_bytes(bytes([byte]))
        seen += bytes([byte])
        kept = matcher.push(id)
        if kept is not None:
            assert tokenizer.decode(kept).startswith(shown)
            return
        full = seen.decode(errors="ignore")
        now = full[: len(full) - matcher.held()]
        assert now.startswith(shown)
        shown = now


def test_a_straddling_token_is_replaced_by_its_kept_part(tokenizer: Tokenizer) -> None:
    (word,) = tokenizer.encode(" understanding", special=False)
    before = tokenizer.encode("Good", special=False)
    assert run(StopMatcher(tokenizer, ["standing"], ""), [*before, word]) == (
        len(before) + 1,
        (*before, *tokenizer.encode(" under", special=False)),
    )


def test_a_cut_inside_a_token_that_begins_inside_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_bytes(b"\xe2\x82") + tokenizer.encode_bytes(b"\xac") + tokenizer.encode(";;", special=False)
    _, kept = run(StopMatcher(tokenizer, [";"], ""), ids)
    assert kept is not None
    assert tokenizer.decode(kept) == "€"


def test_the_forced_beginning(tokenizer: Tokenizer) -> None:
    assert run(StopMatcher(tokenizer, ["END"], "END"), tokenizer.encode(" go on", special=False))[1] is None
    assert run(StopMatcher(tokenizer, ["END"], "EN"), tokenizer.encode("D", special=False)) == (1, ())
    assert StopMatcher(tokenizer, ["END"], "EN").held() == 0


def test_control_tokens_before_the_cut_are_kept(tokenizer: Tokenizer) -> None:
    a, stop = tokenizer.encode("a", special=False), tokenizer.encode("#", special=False)
    assert run(StopMatcher(tokenizer, ["#"], ""), [*a, 2, *stop]) == (3, (*a, 2))
    assert run(StopMatcher(tokenizer, ["<|im_end|>"], ""), [2])[1] is None


def test_an_empty_stop_string_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        StopMatcher(tokenizer, ["a", ""], "")
