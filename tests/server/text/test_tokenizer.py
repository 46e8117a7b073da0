import random
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import ByteLevelSpec, TokenType
from pavane.server.text.byte_alphabet import BYTE_OF_CHAR
from pavane.server.text.tokenizer import Tokenizer

CORPUS = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\t\ttabs \t mixed",
    "line one\nline two\r\nline three\n",
    "It's we'll THEY'RE i'd don't",
    "naïve café, Ünïcödé, Ελληνικά, русский текст",
    "日本語のテキスト、中文文本，한국어",
    "العربية עברית हिन्दी ไทย",
    "👋🏽 👩‍👩‍👧‍👦 🇨🇭 ✨🔥",
    "def f(x):\n    if x > 0:\n        return [y ** 2 for y in range(x)]\n    return None\n",
    '<html><body class="a">&amp;</body></html>',
    '{\'key\': [true, null], "b": "\\n"}',
    "a     b      c       d",
    "...!!!???---___===***",
    "e\u0301 combining, \u00a0nbsp\u2003em space\u200bzero width",
    "\ufffd replacement",
    "THE QUICK brown Fox jumpsOver theLazyDog snake_case camelCase",
]
# Digits with white space before them: the converter of transformers does not know that SmolLM2 splits digits first.
DIGITS = ["1", "2024", "3.14159", "a1b22c333", "  42", "x \n\n 7", "٣٤٥ Ⅷ ½ ²", "0x1F 1e-9", "tel. +41  44 123\t45"]


@pytest.fixture(scope="module")
def reference(spec: ByteLevelSpec) -> Any:
    """Byte-level BPE written down literally: split, then merge the pair of lowest rank until there is none."""
    char_of = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    ids = {token: id for id, token in enumerate(spec.tokens)}
    ranks = {pair: rank for rank, pair in enumerate(spec.merges)}
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def encode(text: str) -> list[int]:
        result = []
        for part in regex.findall(r"\p{N}|\P{N}+", text):
            for word in words.findall(part):
                pieces = [char_of[byte] for byte in word.encode()]
                pieces = [piece for piece in pieces if piece in ids]
                while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
                    best = min(pairs, key=ranks.__getitem__)
                    merged: list[str] = []
                    while pieces:
                        size = 2 if tuple(pieces[:2]) == best else 1
                        merged.append("".join(pieces[:size]))
                        pieces = pieces[size:]
                    pieces = merged
                result += [ids[piece] for piece in pieces]
        return result

    return encode


@pytest.mark.parametrize("text", CORPUS + DIGITS)
def test_equals_the_literal_algorithm(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text, special=False) == reference(text)


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from(" \n\t'stre012aZ.,<|>é字👋\x04"), st.characters(exclude_categories=["Cs"]))
    )
)
def test_equals_the_literal_algorithm_on_any_text(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text, special=False) == reference(text)


@pytest.mark.parametrize("text", CORPUS)
def test_equals_transformers(tokenizer: Tokenizer, hugging_face: Any, text: str) -> None:
    ids = tokenizer.encode(text, special=True)
    assert ids == hugging_face(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_control_tokens_are_never_made_from_plain_text(tokenizer: Tokenizer) -> None:
    text = "a<|im_end|>\n<|im_start|>system\nb<|endoftext|>"
    plain, special = tokenizer.encode(text, special=False), tokenizer.encode(text, special=True)
    assert not tokenizer.control_ids & set(plain)
    assert {0, 1, 2} <= set(special)
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode(special) == "a\nsystem\nb"
    assert tokenizer.decode(special, special=True) == text


def test_ends_and_bos_follow_the_file(tokenizer: Tokenizer, spec: ByteLevelSpec) -> None:
    assert tokenizer.vocab_size == 49152
    assert tokenizer.bos_id is None
    assert tokenizer.eos_ids == {2}
    assert Tokenizer(replace(spec, add_bos_token=True)).bos_id == 1


@given(text=st.text())
def test_bytes_are_encoded_exactly(tokenizer: Tokenizer, text: str) -> None:
    data = b"".join(tokenizer.bytes_of(id) for id in tokenizer.encode(text, special=False))[1:]
    ids = tokenizer.encode_bytes(data)
    assert b"".join(map(tokenizer.bytes_of, ids)) == data


def test_the_bytes_of_all_tokens(tokenizer: Tokenizer, spec: ByteLevelSpec) -> None:
    spelled = tokenizer.token_bytes()
    assert len(spelled) == tokenizer.vocab_size
    assert {id for id, data in enumerate(spelled) if data is None} == tokenizer.control_ids
    assert all(data == tokenizer.bytes_of(id) for id, data in enumerate(spelled) if data is not None)
    types = list(spec.token_types)
    types[300] = TokenType.UNUSED
    assert Tokenizer(replace(spec, token_types=tuple(types), merges=())).token_bytes()[300] is None


@pytest.mark.parametrize("id", [-1, 49152, 2**31])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, id: int) -> None:
    with pytest.raises(ValueError, match=f"token id {id} is outside the vocabulary"):
        tokenizer.decode([id])


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    done = threading.Event()

    def encode() -> None:
        tokenizer.encode("some words to encode, again and again\n" * 20_000, special=False)
        done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    thread.join()
    assert turns > 20


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2", "tekken"])
def test_long_texts_are_cut_where_that_changes_no_token(
    spec: ByteLevelSpec, pre: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(replace(spec, pre=pre))
    draw = random.Random(pre)
    texts = [draw.choice(["", " ", "\n"]).join(draw.choices(CORPUS + DIGITS, k=60)) for _ in range(20)]
    whole = [tokenizer.encode(text, special=special) for text in texts for special in (False, True)]
    monkeypatch.setattr("pavane.server.text.tokenizer.LONG", 8)
    assert sum(len(list(tokenizer._pieces(text))) for text in texts) > 10 * len(texts)
    assert all("".join(tokenizer._pieces(text)) == text for text in texts)
    assert [tokenizer.encode(text, special=special) for text in texts for special in (False, True)] == whole
    assert list(tokenizer._pieces("A" * 100)) == ["A" * 100]


def test_user_defined_tokens_stay_text_unless_the_template_writes_them(spec: ByteLevelSpec) -> None:
    types = list(spec.token_types)
    types[1] = types[3] = TokenType.USER_DEFINED
    tokenizer = Tokenizer(replace(spec, token_types=tuple(types), bos_id=None))
    assert 1 in tokenizer.control_ids
    assert tokenizer.encode("<repo_name>", special=False) == [3]
    assert tokenizer.decode([3]) == "<repo_name>"


def test_llama_3_splits_numbers_by_three_and_keeps_newlines_together(spec: ByteLevelSpec) -> None:
    tokenizer = Tokenizer(replace(spec, pre="llama-bpe"))
    text = "I'M 12345 here\n\n  x"
    ids = tokenizer.encode(text, special=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("a\r\n", special=False)[1:] == tokenizer.encode("\r\n", special=False)


def test_inconsistent_vocabularies_are_refused(spec: ByteLevelSpec) -> None:
    with pytest.raises(ModelError, match="same token twice"):
        Tokenizer(replace(spec, tokens=(*spec.tokens[:-1], spec.tokens[-2])))
    with pytest.raises(ModelError, match="merges do not fit"):
        Tokenizer(replace(spec, merges=(("no such", "token"),)))
    with pytest.raises(ModelError, match="outside the byte alphabet"):
        Tokenizer(replace(spec, tokens=(*spec.tokens[:-1], "a b")))
    with pytest.raises(ModelError, match="bos_token_id is missing"):
        Tokenizer(replace(spec, bos_id=None, add_bos_token=True))
