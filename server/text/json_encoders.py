"""Encoders that share a tokenizer.json's model, and differ from its own in what they make of text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.models import BPE

from pavane.models.errors import ModelError

_Json = Mapping[str, Any]
_OPTIONS = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")  # of the model, beside vocabulary and merges


def plain_encoder(
    special: tokenizers.Tokenizer, definition: _Json, control: frozenset[int], tokens: Sequence[str]
) -> tokenizers.Tokenizer:
    """An encoder with the same ids that makes no control token from text.

    Args:
        special: the tokenizer.json's own.
        definition: its content.
        tokens: by id.

    Raises:
        ModelError: the ids of added tokens cannot be kept.
    """
    model = definition["model"]
    spelled = {tokens[id] for id in control if tokens[id] in model["vocab"] and tokens[id] != model.get("unk_token")}
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]] if spelled else []
    reached = model.get("ignore_merges") or any(left + right in spelled for left, right in merges)
    if spelled and reached:
        # Their ids are kept under names that no text has.
        vocab = {f"\0{id}" if token in spelled else token: id for token, id in model["vocab"].items()}
        kept = [(left, right) for left, right in merges if spelled.isdisjoint((left, right, left + right))]
        options = {key: model[key] for key in _OPTIONS if model.get(key) is not None}
        encoder = tokenizers.Tokenizer(BPE(vocab=vocab, merges=kept, **options))
    else:
        spelled = set()
        encoder = tokenizers.Tokenizer(special.model)
    added = special.get_added_tokens_decoder()
    encoder.add_tokens(
        [_flagged(token, id in control) for id, token in sorted(added.items()) if token.content not in spelled]
    )
    encoder.encode_special_tokens = True
    encoder.normalizer = special.normalizer
    encoder.pre_tokenizer = special.pre_tokenizer
    got = {id: token.content for id, token in encoder.get_added_tokens_decoder().items()}
    if got != {id: token.content for id, token in added.items() if token.content not in spelled}:
        raise ModelError("tokenizer.json: the ids of added_tokens have gaps, which is not supported; renumber them")
    return encoder


def _flagged(token: AddedToken, special: bool) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )


def inner_encoder(plain: tokenizers.Tokenizer, definition: _Json) -> tokenizers.Tokenizer:
    """`plain` without the steps that put a space before a text."""
    steps = {key: _without_prefix(definition.get(key)) for key in ("normalizer", "pre_tokenizer")}
    if all(steps[key] == definition.get(key) for key in steps):
        return plain
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    made = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": empty, **steps}))
    encoder = tokenizers.Tokenizer(plain.model)
    added: dict[int, AddedToken] = plain.get_added_tokens_decoder()
    encoder.add_tokens([token for _, token in sorted(added.items())])
    encoder.encode_special_tokens = True
    encoder.normalizer, encoder.pre_tokenizer = made.normalizer, made.pre_tokenizer
    return encoder


def _without_prefix(step: Any) -> Any:
    if step is None:
        return None
    changed = dict(step)
    for key in ("normalizers", "pretokenizers"):
        if key in step:
            changed[key] = [part for part in map(_without_prefix, step[key]) if part is not None]
    match step.get("type"):
        case "Prepend":
            return None
        case "Metaspace":
            changed["prepend_scheme"] = "never"
            changed.pop("add_prefix_space", None)
        case "ByteLevel":
            changed["add_prefix_space"] = False
    return changed
