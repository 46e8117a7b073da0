"""Byte-level BPE as GGUF files describe it: vocabulary, merges, and the name of a pre-tokenizer."""

from collections.abc import Sequence

import tokenizers
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import ByteLevelSpec, TokenType
from pavane.server.text.byte_alphabet import BYTE_OF_CHAR
from pavane.server.text.vocabulary import Vocabulary, added_encoder, bos_of, check_distinct, control_ids

# The regular expressions are those of the models' published tokenizer.json; llama.cpp's src/llama-vocab.cpp lists them
# by the names that GGUF uses.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPLITS = {
    "llama-bpe": "|".join((_CONTRACTION, _LETTERS, r"\p{N}{1,3}", _SIGNS, _SPACES)),
    "qwen2": "|".join((_CONTRACTION, _LETTERS, r"\p{N}", _SIGNS, _SPACES)),
    "tekken": "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
            r"\p{N}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            _SPACES,
        )
    ),
}
_WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")  # a word that is a token is not merged from its parts
_COMPOSED = ("qwen2",)  # text is brought to NFC first


def byte_level(spec: ByteLevelSpec) -> Vocabulary:
    """The vocabulary and encoders of a GGUF file.

    Raises:
        ModelError: the vocabulary is inconsistent: double or misspelt tokens, merges of unknown tokens.
    """
    bos_id = bos_of(spec)
    check_distinct(spec.tokens)
    control = control_ids(spec.tokens, spec.token_types, spec)
    data = tuple(map(_spelled, range(len(spec.tokens)), spec.tokens, spec.token_types))
    normal = {id for id, kind in enumerate(spec.token_types) if kind is TokenType.NORMAL}
    literal = {id for id, kind in enumerate(spec.token_types) if kind is TokenType.USER_DEFINED}
    plain = _encoder(spec, normal - control, literal - control)
    return Vocabulary(
        tokens=spec.tokens,
        data=data,
        control_ids=control,
        byte_ids=byte_ids([data[id] for id in normal], sorted(normal)),
        bos_id=bos_id,
        special=_encoder(spec, normal - control, literal | control),
        plain=plain,
        inner=plain,
    )


def spelled_in_byte_alphabet(id: int, token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary. Raises ModelError if it is not in GPT-2's byte alphabet."""
    try:
        return bytes(BYTE_OF_CHAR[char] for char in token)
    except KeyError as error:
        raise ModelError(
            f"token {id} ({token!r}) has a character outside the byte alphabet; convert the model again"
        ) from error


def byte_ids(data: Sequence[bytes], ids: Sequence[int]) -> dict[int, int]:
    """The token of each single byte. Every byte of a normal token has one, so that any part of it can be written.

    Args:
        data: the bytes of the normal tokens.
        ids: their ids.

    Raises:
        ModelError: a byte of a token is no token itself.
    """
    single = {token[0]: id for token, id in zip(data, ids, strict=True) if len(token) == 1}
    if missing := set().union(*data) - single.keys():
        id = next(id for token, id in zip(data, ids, strict=True) if missing & set(token))
        raise ModelError(f"token {id} has a byte that is no token itself; convert the model again")
    return single


def _spelled(id: int, token: str, kind: TokenType) -> bytes:
    if kind is TokenType.UNUSED:
        return b""
    return spelled_in_byte_alphabet(id, token) if kind is TokenType.NORMAL else token.encode("utf-8")


def _encoder(spec: ByteLevelSpec, normal: set[int], added: set[int]) -> tokenizers.Tokenizer:
    ids = {spec.tokens[id]: id for id in normal | added}
    try:
        model = BPE(vocab=ids, merges=list(spec.merges), ignore_merges=spec.pre in _WHOLE_WORDS_FIRST)
    except Exception as error:  # the library raises no narrower one
        raise ModelError(f"tokenizer.ggml.merges do not fit the tokens ({error}); convert the model again") from error
    encoder = added_encoder(model, spec.tokens, added)
    encoder.pre_tokenizer = _pre_tokenizer(spec.pre)
    if spec.pre in _COMPOSED:
        encoder.normalizer = normalizers.NFC()
    return encoder


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in ("smollm", "starcoder"):
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre in _SPLITS:
        split = pre_tokenizers.Split(tokenizers.Regex(_SPLITS[pre]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ModelError(f"tokenizer.ggml.pre = {pre!r} is not supported")
