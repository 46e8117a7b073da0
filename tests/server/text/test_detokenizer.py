from hypothesis import given, settings
from hypothesis import strategies as st

from pavane.server.text.detokenizer import Detokenizer
from pavane.server.text.tokenizer import Tokenizer

# Control tokens, then the single bytes and short merges, which cut characters in pieces.
ids = st.lists(st.one_of(st.integers(0, 16), st.integers(17, 400), st.integers(0, 49151)), max_size=40)


@settings(deadline=None)
@given(ids=ids, sizes=st.lists(st.integers(0, 4), max_size=40))
def test_pieces_are_the_whole(tokenizer: Tokenizer, ids: list[int], sizes: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer)
    pieces, rest = [], ids
    for size in sizes:
        pieces.append(detokenizer.push(rest[:size]))
        rest = rest[size:]
    pieces += [detokenizer.push([id]) for id in rest]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


@given(text=st.text(max_size=30))
def test_valid_text_is_never_shown_broken(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, special=False)
    detokenizer, shown = Detokenizer(tokenizer), ""
    for id in ids:
        shown += detokenizer.push([id])
        assert tokenizer.decode(ids).startswith(shown)
    assert detokenizer.flush() == ""


def test_an_incomplete_character_waits_for_its_end(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode_bytes("€".encode()[:1]) + tokenizer.encode_bytes("€".encode()[1:])
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push([first]) == ""
    assert detokenizer.push(rest) == "€"
    assert detokenizer.push([first]) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.push(tokenizer.encode("new", special=False)) == "new"
