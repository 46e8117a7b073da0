"""What a model file says about its tokenizer, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from pavane.models.errors import ModelError

# GGUF names of the pre-tokenizers that `pavane.server.text` reproduces exactly.
SUPPORTED_PRE = ("smollm", "gpt-2", "llama-bpe")


class TokenType(IntEnum):
    """The token types of GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class TokenizerSpec:
    """A byte-level BPE tokenizer.

    `tokens`, `token_types` and the ids share one index space, the token id. Normal tokens are spelled in GPT-2's
    byte alphabet (one printable character per byte), all others literally. `merges` are pairs in order of rank.
    """

    pre: str
    tokens: tuple[str, ...]
    token_types: tuple[TokenType, ...]
    merges: tuple[tuple[str, str], ...]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eom_id: int | None
    unk_id: int | None
    add_bos_token: bool
    chat_template: str | None


def tokenizer_from_gguf_metadata(fields: Mapping[str, object]) -> TokenizerSpec:
    """Read `tokenizer.*`.

    Raises:
        ModelError: a field is missing or malformed, or asks for something that is not reproduced exactly.
    """
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ModelError(
            f"tokenizer.ggml.model = {model!r} is not supported, only 'gpt2' (byte-level BPE); SentencePiece ('llama') "
            "models cannot be served yet: choose a model with a byte-level BPE tokenizer, such as SmolLM2 or Llama 3"
        )
    pre = fields.get("tokenizer.ggml.pre")
    if pre not in SUPPORTED_PRE:
        raise ModelError(
            f"tokenizer.ggml.pre = {pre!r} is not supported, only {', '.join(map(repr, SUPPORTED_PRE))}; if the file "
            "was converted by an old tool that did not record it, convert the model again"
        )
    for key in ("add_eos_token", "add_space_prefix", "remove_extra_whitespaces", "add_sep_token"):
        if fields.get(f"tokenizer.ggml.{key}"):
            raise ModelError(f"tokenizer.ggml.{key} = True is not supported; choose a model without it")
    if "tokenizer.ggml.precompiled_charsmap" in fields:
        raise ModelError(
            "tokenizer.ggml.precompiled_charsmap (a text normaliser) is not supported; choose a model without"
        )

    tokens = _strings(fields, "tokenizer.ggml.tokens")
    return TokenizerSpec(
        pre=str(pre),
        tokens=tokens,
        token_types=_token_types(fields, len(tokens)),
        merges=_merges(fields),
        bos_id=_token_id(fields, "bos", len(tokens)),
        eos_id=_token_id(fields, "eos", len(tokens)),
        eot_id=_token_id(fields, "eot", len(tokens)),
        eom_id=_token_id(fields, "eom", len(tokens)),
        unk_id=_token_id(fields, "unknown", len(tokens)),
        # The Llama 3 tokenizer prepends BOS unless told otherwise; converters leave the field out.
        add_bos_token=_flag(fields, "tokenizer.ggml.add_bos_token", default=pre == "llama-bpe"),
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
        types = tuple(map(TokenType, value))
    except ValueError as error:
        raise ModelError(f"{key}: {error}; download the file again") from error
    if TokenType.BYTE in types:
        raise ModelError(f"{key} has BYTE tokens, which byte-level BPE does not know; convert the model again")
    return types


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
