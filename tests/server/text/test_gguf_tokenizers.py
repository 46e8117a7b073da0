"""Tokenizers of GGUF files against the algorithms, written down literally."""

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vocabularies import CORPUS, SPACE, byte_level_spec, sentence_piece_spec

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import (
    ByteLevelSpec,
    SentencePieceSpec,
    TokenType,
    tokenizer_from_gguf_metadata,
)
from pavane.server.text.byte_alphabet import BYTE_OF_CHAR
from pavane.server.text.tokenizer import Tokenizer

CHARS = st.one_of(
    st.sampled_from(" \n\r\t'stTHEaeZ0129.,/<|>é字👋\u0301\u00a0\u2003İǅʰ"), st.characters(exclude_categories=["Cs"])
)
ANY = st.text(alphabet=CHARS, max_size=50)

# Each word pattern, alternatives in order; the sources are named in pavane.server.text.byte_level.
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SHORT = r"'(?i:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HEAD = r"[^\r\n\p{L}\p{N}]?"
SPLITS = {
    "gpt-2": (GPT_2,),
    "smollm": (r"\p{N}|\P{N}+", GPT_2),
    "starcoder": (r"\p{N}|\P{N}+", GPT_2),
    "llama-bpe": (SHORT + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,),
    "qwen2": (SHORT + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,),
    "tekken": (f"{HEAD}{UP}*{LOW}+|{HEAD}{UP}+{LOW}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + REST,),
}


def merged(symbols: list[str], rank: Any) -> list[str]:
    """BPE: of all neighbours, the pair of best rank (leftmost of equals) is merged until there is none."""
    while True:
        ranks = [(rank(pair), at) for at, pair in enumerate(pairwise(symbols)) if rank(pair) is not None]
        if not ranks:
            return symbols
        _, at = min(ranks)
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]


def literal_byte_level(spec: ByteLevelSpec, text: str) -> list[int]:
    import unicodedata

    char_of = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    ids = {token: id for id, token in enumerate(spec.tokens)}
    ranks = {pair: rank for rank, pair in enumerate(spec.merges)}
    parts = [unicodedata.normalize("NFC", text) if spec.pre == "qwen2" else text]
    for pattern in SPLITS[spec.pre]:
        parts = [word for part in parts for word in regex.findall(pattern, part)]
    result = []
    for part in parts:
        word = "".join(char_of[byte] for byte in part.encode())
        whole = spec.pre in ("llama-bpe", "tekken") and word in ids
        result += [ids[word]] if whole else [ids[symbol] for symbol in merged(list(word), ranks.get)]
    return result


def literal_sentence_piece(spec: SentencePieceSpec, text: str) -> list[int]:
    ids = {token: id for id, token in enumerate(spec.tokens)}
    scores = {
        token: -score
        for token, score, kind in zip(spec.tokens, spec.scores, spec.token_types, strict=True)
        if kind is TokenType.NORMAL
    }
    text = text.replace(" ", SPACE)
    if spec.add_space_prefix and text:
        text = SPACE + text
    result = []
    for symbol in merged(list(text), lambda pair: scores.get("".join(pair))):
        result += [ids[symbol]] if symbol in scores else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return result


@pytest.fixture(scope="module", params=SPLITS)
def byte_level(request: pytest.FixtureRequest) -> tuple[ByteLevelSpec, Tokenizer]:
    spec = byte_level_spec(request.param, ["<|end|>"])
    return spec, Tokenizer(spec)


@pytest.mark.parametrize("text", CORPUS)
def test_corpus(byte_level: tuple[ByteLevelSpec, Tokenizer], text: str) -> None:
    spec, tokenizer = byte_level
    for variant in (text, text.upper(), text.replace(" ", "  "), text.replace(" ", "\r\n ")):
        assert tokenizer.encode(variant, special=False) == literal_byte_level(spec, variant)


@settings(max_examples=60)
@given(text=ANY)
def test_any_text(byte_level: tuple[ByteLevelSpec, Tokenizer], text: str) -> None:
    spec, tokenizer = byte_level
    ids = tokenizer.encode(text, special=False)
    assert ids == literal_byte_level(spec, text)
    if spec.pre != "qwen2":
        assert tokenizer.decode(ids) == text


@given(data=st.binary(max_size=20))
def test_any_bytes_can_be_written(byte_level: tuple[ByteLevelSpec, Tokenizer], data: bytes) -> None:
    tokenizer = byte_level[1]
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode_bytes(data))) == data


def test_what_qwen_composes_is_not_composed_when_text_is_cut() -> None:
    tokenizer = Tokenizer(byte_level_spec("qwen2"))
    assert tokenizer.decode(tokenizer.encode("e\u0301", special=False)) == "é"
    assert tokenizer.decode(tokenizer.encode_bytes("e\u0301".encode())) == "e\u0301"


@pytest.fixture(scope="module", params=[True, False])
def pieces(request: pytest.FixtureRequest) -> tuple[SentencePieceSpec, Tokenizer]:
    spec = sentence_piece_spec(["[INST]"], add_space_prefix=request.param)
    return spec, Tokenizer(spec)


@pytest.mark.parametrize("text", CORPUS)
def test_corpus_of_pieces(pieces: tuple[SentencePieceSpec, Tokenizer], text: str) -> None:
    spec, tokenizer = pieces
    for variant in (text, text.upper(), text.replace(" ", "  "), text.replace(" ", " " * 7)):
        assert tokenizer.encode(variant, special=False) == literal_sentence_piece(spec, variant)


@given(text=ANY)
def test_any_text_in_pieces(pieces: tuple[SentencePieceSpec, Tokenizer], text: str) -> None:
    spec, tokenizer = pieces
    ids = tokenizer.encode(text, special=False)
    assert ids == literal_sentence_piece(spec, text)
    text = text.replace(SPACE, " ")  # SentencePiece takes its own spelling of a space for one
    prefix = " " if spec.add_space_prefix and text else ""
    assert tokenizer.decode(ids) == prefix + text
    assert tokenizer.decode(tokenizer.encode_inner(text, after_control=False)) == text


@given(data=st.binary(max_size=20))
def test_any_bytes_can_be_written_in_pieces(pieces: tuple[SentencePieceSpec, Tokenizer], data: bytes) -> None:
    tokenizer = pieces[1]
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode_bytes(data))) == data


def test_pieces_keep_control_and_text_apart(pieces: tuple[SentencePieceSpec, Tokenizer]) -> None:
    spec, tokenizer = pieces
    assert tokenizer.bos_id == 1
    assert tokenizer.eos_ids == {2}
    space = [tokenizer.encode_inner(" ", after_control=False)[0]] if spec.add_space_prefix else []
    x = tokenizer.encode_inner("x", after_control=False)
    assert tokenizer.encode("[INST]x</s>", special=True) == [3, *tokenizer.encode_inner("x", after_control=True), 2]
    assert not tokenizer.control_ids & set(tokenizer.encode("[INST]<s></s><unk>", special=False))
    assert tokenizer.decode(space + x) == " x"[-len(space + x) :]


METADATA: dict[str, object] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<s>", "a"],
    "tokenizer.ggml.token_type": [3, 1],
    "tokenizer.ggml.scores": [0.0, -1.0],
    "tokenizer.ggml.bos_token_id": 0,
}


def test_metadata_of_pieces() -> None:
    spec = tokenizer_from_gguf_metadata(METADATA)
    assert isinstance(spec, SentencePieceSpec)
    assert (spec.add_space_prefix, spec.add_bos_token, spec.bos_id) == (True, True, 0)
    without = METADATA | {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    spec = tokenizer_from_gguf_metadata(without)
    assert isinstance(spec, SentencePieceSpec)
    assert (spec.add_space_prefix, spec.add_bos_token) == (False, False)


@pytest.mark.parametrize(("name", "bos"), [("llama3", True), ("llama-v3", True), ("tekken", True), ("qwen2", False)])
def test_names_of_pre_tokenizers(name: str, bos: bool) -> None:
    fields = METADATA | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": ["a a"]}
    spec = tokenizer_from_gguf_metadata(fields)
    assert isinstance(spec, ByteLevelSpec)
    assert (spec.pre, spec.add_bos_token) == ("llama-bpe" if name.startswith("llama") else name, bos)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "t5", r"model = 't5' is not supported, only 'gpt2' .* and 'llama'"),
        ("scores", [0.0], r"scores must be a list of 2 numbers"),
        ("scores", ["0", "1"], r"scores must be a list of 2 numbers"),
        ("remove_extra_whitespaces", True, r"remove_extra_whitespaces = True is not supported"),
        ("precompiled_charsmap", [1], r"precompiled_charsmap .* is not supported"),
        ("add_space_prefix", 1, r"add_space_prefix = 1 is not a boolean"),
        ("token_type", [3, 9], r"token_type: 9 is not a valid TokenType"),
    ],
)
def test_clear_errors_in_metadata(field: str, value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tokenizer_from_gguf_metadata(METADATA | {f"tokenizer.ggml.{field}": value})


@pytest.mark.parametrize(
    ("token", "kind", "spelling", "message"),
    [
        ("<0x41>", TokenType.USER_DEFINED, "<0x41>", "no byte token <0x41>"),
        ("<0x41>", TokenType.BYTE, "A41", r"token 68 \('A41'\) is a byte token, but not spelled like <0x0A>"),
        (SPACE * 2, TokenType.USER_DEFINED, SPACE * 2, r"user-defined token '▁▁' with a space"),
        ("<s>", TokenType.CONTROL, "</s>", "the same token twice"),
    ],
)
def test_clear_errors_in_pieces(token: str, kind: TokenType, spelling: str, message: str) -> None:
    spec = sentence_piece_spec()
    tokens, types = list(spec.tokens), list(spec.token_types)
    at = tokens.index(token)
    tokens[at], types[at] = spelling, kind
    with pytest.raises(ModelError, match=message):
        Tokenizer(replace(spec, tokens=tuple(tokens), token_types=tuple(types)))


def test_a_byte_token_is_not_merged_from_its_spelling() -> None:
    spec = sentence_piece_spec()
    spec = replace(
        spec,
        tokens=(*spec.tokens, "<0x4", "1>"),
        token_types=(*spec.token_types, TokenType.NORMAL, TokenType.NORMAL),
        scores=(*spec.scores, 1.0, 1.0),
    )
    tokenizer = Tokenizer(spec)
    assert tokenizer.decode(tokenizer.encode_inner("<0x41>", after_control=False)) == "<0x41>"


@pytest.mark.parametrize("unit", ["word ", "a", " ", "ab", "日"])
def test_the_cost_of_encoding_is_not_quadratic(pieces: tuple[SentencePieceSpec, Tokenizer], unit: str) -> None:
    def cost(size: int) -> float:
        text = unit * (size // len(unit))
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            pieces[1].encode(text, special=False)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert cost(160_000) < 80 * cost(10_000)  # 16 if linear, 256 if quadratic
