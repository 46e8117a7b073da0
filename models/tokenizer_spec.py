"""What a model's files say about its tokenizer, as plain data; how GGUF says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pavane.models.errors import ModelError

# GGUF names of the byte-level pre-tokenizers that `pavane.server.text` reproduces exactly, and their other spellings.
SUPPORTED_PRE = ("gpt-2", "llama-bpe", "qwen2", "smollm", "starcoder", "tekken")
_SAME_PRE = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
# These prepend BOS unless told otherwise; converters leave the field out.
_BEGINS_WITH_BOS = ("llama-bpe", "tekken")


class TokenType(IntEnum):
    """The token types of GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """What every kind of tokenizer has.

    Attributes:
        bos_id: the token that the chat template calls `bos_token`.
        eos_id: the token that the chat template calls `eos_token`.
        end_ids: tokens that end an answer when they are sampled, `eos_id` among them.
    """

    bos_id: int | None
    eos_id: int | None
    end_ids: frozenset[int]
    chat_template: str | None


@dataclass(frozen=True, kw_only=True)
class GgufSpec(TokenizerSpec):
    """A tokenizer in a GGUF file. `tokens`, `token_types` and the ids share one index space, the token id."""

    tokens: tuple[str, ...] = field(repr=False)
    token_types: tuple[TokenType, ...] = field(repr=False)
    add_bos_token: bool


@dataclass(frozen=True, kw_only=True)
class ByteLevelSpec(GgufSpec):
    """Byte-level BPE: `merges` are pairs in order of rank.

    Normal tokens are spelled in GPT-2's byte alphabet (one printable character per byte), all others literally.
    """

    pre: str
    merges: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SentencePieceSpec(GgufSpec):
    """SentencePiece BPE with byte fallback: of all neighbours, those whose union scores best are merged first.

    Normal tokens are spelled with U+2581 for a space, byte tokens as <0x00> to <0xFF>, all others literally. With
    `add_space_prefix` a space is put before every text.
    """

    scores: tuple[float, ...] = field(repr=False)
    add_space_prefix: bool


@dataclass(frozen=True, kw_only=True)
class TokenizerJsonSpec(TokenizerSpec):
    """A tokenizer.json of the `tokenizers` library, which alone says how text becomes tokens, BOS included.

    Attributes:
        text: the content of the file.
        added: tokens that tokenizer_config.json adds or repeats: (id, content, whether it is special).
    """

    text: str = field(repr=False)
    added: tuple[tuple[int, str, bool], ...] = field(repr=False)


def tokenizer_from_gguf_metadata(fields: Mapping[str, object]) -> GgufSpec:
    """Read `tokenizer.*`.

    Raises:
        ModelError: a field is missing or malformed, or asks for something that is not reproduced exactly.
    """
    model = fields.get("tokenizer.ggml.model")
    for key in ("add_eos_token", "remove_extra_whitespaces", "add_sep_token"):
        if fields.get(f"tokenizer.ggml.{key}"):
            raise ModelError(f"tokenizer.ggml.{key} = True is not supported; choose a model without it")
    if "tokenizer.ggml.precompiled_charsmap" in fields:
        raise ModelError(
            "tokenizer.ggml.precompiled_charsmap (a text normaliser) is not supported; choose a model without"
        )
    if model == "gpt2":
        return _byte_level(fields)
    if model == "llama":
        return _sentence_piece(fields)
    raise ModelError(
        f"tokenizer.ggml.model = {model!r} is not supported, only 'gpt2' (byte-level BPE) and 'llama' (SentencePiece "
        "BPE): choose a model with one of them, or serve the model's Hugging Face folder if it has a tokenizer.json"
    )


def _byte_level(fields: Mapping[str, object]) -> ByteLevelSpec:
    pre = str(fields.get("tokenizer.ggml.pre"))
    pre = _SAME_PRE.get(pre, pre)
    if pre not in SUPPORTED_PRE:
        raise ModelError(
            f"tokenizer.ggml.pre = {fields.get('tokenizer.ggml.pre')!r} is not supported, only "
            f"{', '.join(map(repr, SUPPORTED_PRE))}; if the file was converted by an old tool that did not record it, "
            "convert the model again"
        )
    if fields.get("tokenizer.ggml.add_space_prefix"):
        raise ModelError("tokenizer.ggml.add_space_prefix = True is not supported; choose a model without it")
    tokens = _strings(fields, "tokenizer.ggml.tokens")
    types = _token_types(fields, len(tokens))
    if TokenType.BYTE in types:
        raise ModelError(
            "tokenizer.ggml.token_type has BYTE tokens, which byte-level BPE does not know; convert the model again"
        )
    bos_id, eos_id, end_ids = _named(fields, len(tokens))
    return ByteLevelSpec(
        pre=pre,
        tokens=tokens,
        token_types=types,
        merges=_merges(fields),
        bos_id=bos_id,
        eos_id=eos_id,
        end_ids=end_ids,
        add_bos_token=_flag(fields, "tokenizer.ggml.add_bos_token", default=pre in _BEGINS_WITH_BOS),
        chat_template=_optional_string(fields, "tokenizer.chat_template"),
    )


def _sentence_piece(fields: Mapping[str, object]) -> SentencePieceSpec:
    tokens = _strings(fields, "tokenizer.ggml.tokens")
    scores = fields.get("tokenizer.ggml.scores")
    if (
        not isinstance(scores, list)
        or len(scores) != len(tokens)
        or not all(isinstance(score, int | float) for score in scores)
    ):
        raise ModelError(
            f"tokenizer.ggml.scores must be a list of {len(tokens)} numbers, one per token; download the file again"
        )
    bos_id, eos_id, end_ids = _named(fields, len(tokens))
    return SentencePieceSpec(
        tokens=tokens,
        token_types=_token_types(fields, len(tokens)),
        scores=tuple(map(float, scores)),
        add_space_prefix=_flag(fields, "tokenizer.ggml.add_space_prefix", default=True),
        bos_id=bos_id,
        eos_id=eos_id,
        end_ids=end_ids,
        add_bos_token=_flag(fields, "tokenizer.ggml.add_bos_token", default=True),
        chat_template=_optional_string(fields, "tokenizer.chat_template"),
    )


def _strings(fields: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = fields.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ModelError(f"{key} is missing or not a list of strings; the file is incomplete, download it again")
    return tuple(value)


def _token_types(fields: Mapping[str, object], count: int) -> tuple[TokenType, ...]:
    key = "tokenizer.ggml.token_type"
    value = fields.get(key)
    if not isinstance(value, list) or len(value) != count:
        raise ModelError(f"{key} must be a list as long as tokenizer.ggml.tokens ({count}); download the file again")
    try:
        return tuple(map(TokenType, value))
    except ValueError as error:
        raise ModelError(f"{key}: {error}; download the file again") from error


def _merges(fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for merge in _strings(fields, "tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelError(
                f"tokenizer.ggml.merges has {merge!r}, which is no pair of tokens; download the file again"
            )
        pairs.append((left, right))
    return tuple(pairs)


def _named(fields: Mapping[str, object], count: int) -> tuple[int | None, int | None, frozenset[int]]:
    """BOS, EOS and all tokens that end an answer."""
    bos, *ends = (_token_id(fields, name, count) for name in ("bos", "eos", "eot", "eom"))
    return bos, ends[0], frozenset(id for id in ends if id is not None)


def _token_id(fields: Mapping[str, object], name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < count:
        raise ModelError(f"{key} = {value!r} is no token id (0..{count - 1}); download the file again")
    return value


def _flag(fields: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise ModelError(f"{key} = {value!r} is not a boolean; convert the model again")
    return value


def _optional_string(fields: Mapping[str, object], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{key} is not a string; convert the model again")
    return value
