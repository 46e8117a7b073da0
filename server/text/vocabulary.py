"""What every kind of tokenizer comes down to: the bytes of each token, the control tokens, and three encoders."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import tokenizers

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import GgufSpec, TokenizerSpec, TokenType

SPACE = "\u2581"  # how SentencePiece spells a space


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and encoders that share it.

    Attributes:
        tokens: how each token is spelled; empty for an id without a token.
        data: what each token adds to a text, in bytes.
        control_ids: tokens that text never becomes and that have no text.
        byte_ids: the token of each single byte that can be written at all.
        bos_id: the token that stands before every text, None for none.
        special: encodes a whole text and the control tokens spelled in it.
        plain: encodes a whole text.
        inner: encodes what stands in the middle of a text: as `plain`, but without a space put before it.
    """

    tokens: tuple[str, ...]
    data: tuple[bytes, ...]
    control_ids: frozenset[int]
    byte_ids: Mapping[int, int]
    bos_id: int | None
    special: tokenizers.Tokenizer
    plain: tokenizers.Tokenizer
    inner: tokenizers.Tokenizer


def control_ids(tokens: Sequence[str], kinds: Sequence[TokenType], spec: TokenizerSpec) -> frozenset[int]:
    """The tokens that text never becomes: those so declared, those that begin or end text, those of the template.

    Some converters mark the template's own tokens as user-defined. A pair of tags such as <think> and </think> is
    something else: the model writes it in its answers, and it stays text.
    """
    named = {spec.bos_id, *spec.end_ids}
    template = spec.chat_template or ""
    known = set(tokens)

    def is_control(id: int) -> bool:
        token, kind = tokens[id], kinds[id]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN) or id in named:
            return True
        return kind is TokenType.USER_DEFINED and token in template and not _is_tag_of_pair(token, known)

    return frozenset(id for id in range(len(tokens)) if is_control(id))


def _is_tag_of_pair(token: str, known: Collection[str]) -> bool:
    if not (token.startswith("<") and token.endswith(">")):
        return False
    return ("<" + token[2:] if token.startswith("</") else "</" + token[1:]) in known


def added_encoder(model: tokenizers.models.Model, tokens: Sequence[str], added: Iterable[int]) -> tokenizers.Tokenizer:
    """An encoder that takes `added` ones, which the model's vocabulary has, from the text as they stand."""
    encoder = tokenizers.Tokenizer(model)
    encoder.add_tokens([tokenizers.AddedToken(tokens[id], normalized=False) for id in sorted(added)])
    return encoder


def bos_of(spec: GgufSpec) -> int | None:
    """The token that the file has before every text. Raises ModelError if it names none."""
    if spec.add_bos_token and spec.bos_id is None:
        raise ModelError("tokenizer.ggml.add_bos_token is set, but bos_token_id is missing; convert the model again")
    return spec.bos_id if spec.add_bos_token else None


def check_distinct(tokens: Sequence[str]) -> None:
    """Raises ModelError if two tokens are spelled alike."""
    if len(set(tokens)) != len(tokens):
        raise ModelError("tokenizer.ggml.tokens has the same token twice; convert the model again")
