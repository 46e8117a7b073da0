"""A tokenizer.json, used as it is through the library that defines it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerJsonSpec, TokenType
from pavane.server.text.byte_level import byte_ids, spelled_in_byte_alphabet
from pavane.server.text.json_encoders import inner_encoder, plain_encoder
from pavane.server.text.sentence_piece import fallback_ids, piece_bytes
from pavane.server.text.vocabulary import SPACE, Vocabulary, control_ids

_Json = Mapping[str, Any]


def tokenizer_json(spec: TokenizerJsonSpec) -> Vocabulary:
    """The vocabulary and encoders of a tokenizer.json.

    Raises:
        ModelError: it is malformed, or its text could not be put together from the text of its tokens.
    """
    definition = json.loads(spec.text)
    model = definition["model"]
    _check_model(model)
    try:
        special = tokenizers.Tokenizer.from_str(spec.text)
    except Exception as error:  # the library raises no narrower one
        raise ModelError(f"tokenizer.json cannot be read ({error}); download it again") from error
    special.no_truncation()
    special.no_padding()
    _add_missing(special, spec)
    added: dict[int, AddedToken] = special.get_added_tokens_decoder()
    ids = special.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, id in ids.items():
        tokens[id] = token
    kinds = _kinds(tokens, added, model.get("unk_token"))
    control = control_ids(tokens, kinds, spec)
    normal = [id for id, kind in enumerate(kinds) if kind is TokenType.NORMAL]
    data = [token.encode("utf-8") for token in tokens]
    if _is_byte_level(definition):
        for id in normal:
            data[id] = spelled_in_byte_alphabet(id, tokens[id])
        singles = byte_ids([data[id] for id in normal], normal)
    else:
        _check_sentence_piece(definition)
        for id in set(range(len(tokens))) - control:
            data[id] = piece_bytes(tokens[id])
        singles = fallback_ids(ids)
    plain = plain_encoder(special, definition, control, tokens)
    return Vocabulary(
        tokens=tuple(tokens),
        data=tuple(data),
        control_ids=control,
        byte_ids=singles,
        bos_id=_prepended(special, tokens),
        special=special,
        plain=plain,
        inner=inner_encoder(plain, definition),
    )


def _check_model(model: _Json) -> None:
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise ModelError(f"tokenizer.json: model.type = {model.get('type')!r} is not supported, only 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ModelError(
                f"tokenizer.json: model.{key} = {model[key]!r} is not supported; choose a model without it"
            )


def _add_missing(special: tokenizers.Tokenizer, spec: TokenizerJsonSpec) -> None:
    """What only tokenizer_config.json adds, as transformers does."""
    for id, content, is_special in spec.added:
        if special.token_to_id(content) is not None:
            continue
        special.add_tokens([AddedToken(content, special=is_special, normalized=False)])
        if special.token_to_id(content) != id:
            raise ModelError(
                f"tokenizer_config.json: added_tokens_decoder gives {content!r} the id {id}, but after tokenizer.json "
                f"it gets {special.token_to_id(content)}; correct one of the files"
            )


def _kinds(tokens: Sequence[str], added: Mapping[int, AddedToken], unknown: str | None) -> list[TokenType]:
    def kind(id: int, token: str) -> TokenType:
        if token and token == unknown:
            return TokenType.UNKNOWN
        if id in added:
            return TokenType.CONTROL if added[id].special else TokenType.USER_DEFINED
        return TokenType.NORMAL if token else TokenType.UNUSED

    return [kind(id, token) for id, token in enumerate(tokens)]


def _parts(step: Any) -> Iterator[_Json]:
    """The steps that a normalizer, pre-tokenizer or decoder consists of."""
    if step is None:
        return
    inner = next((step[key] for key in ("normalizers", "pretokenizers", "decoders") if key in step), None)
    if inner is None:
        yield step
    else:
        for part in inner:
            yield from _parts(part)


def _is_byte_level(definition: _Json) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(definition.get("pre_tokenizer")))


def _check_sentence_piece(definition: _Json) -> None:
    """Tokens are pieces with U+2581 for a space, and the decoder does nothing but put them together.

    It may take the space from the begin of the text that the encoder has put there.
    """
    if not definition["model"].get("byte_fallback"):
        raise ModelError(
            "tokenizer.json is neither byte-level nor has it model.byte_fallback, so that it cannot write every text; "
            "choose a model with one of them"
        )
    for part in _parts(definition.get("decoder")):
        match part:
            case {"type": "Replace", "pattern": {"String": replaced}, "content": " "} if replaced == SPACE:
                continue
            case {"type": "Metaspace", "replacement": replaced} if replaced == SPACE:
                continue
            case {"type": "Strip", "content": " ", "stop": 0}:
                continue
            case {"type": "ByteFallback" | "Fuse"}:
                continue
        raise ModelError(f"tokenizer.json: the decoder {json.dumps(part)} is not supported; choose a model without it")


def _prepended(special: tokenizers.Tokenizer, tokens: Sequence[str]) -> int | None:
    """The token that the post-processor puts before every text, None for none. Raises ModelError if it does more."""
    bare = special.encode("a", add_special_tokens=False).ids
    whole = special.encode("a", add_special_tokens=True).ids
    before = whole[: len(whole) - len(bare)]
    if whole != before + bare or len(before) > 1:
        raise ModelError(
            f"tokenizer.json: the post_processor makes {[tokens[id] for id in whole]} of 'a', but only one token "
            "before the text is supported; change the post_processor"
        )
    return before[0] if before else None
