"""Tiny tokenizers, trained on the spot, as GGUF files and Hugging Face folders describe them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from pavane.models.tokenizer_spec import ByteLevelSpec, SentencePieceSpec, TokenType

SPACE = "\u2581"
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they'll say, isn't it? We've 1234 reasons, 56 or 7.",
    "system user assistant model tool INST SYS Be brief. Hello there, hi! 2+2? 4 And 3+3? Bye.",
    "def f(x):\n    if x > 0:\n        return [y ** 2 for y in range(x)]\n\n    return None\n",
    "naïve café, Ünïcödé, Ελληνικά, русский текст; e\u0301 n\u0303 combining marks. aaaa aaa aa    a",
    "日本語のテキスト、中文文本，한국어 العربية हिन्दी 👋🏽 🔥✨",
    '{"key": [true, null, 1.5e-3], "other": "value\\n"} <b>html</b> </think> [x] (y) a/b/c http://x.org/',
]
WORDS = "\n".join(CORPUS * 4)


def trained(pre: Any, *, byte_level: bool, size: int = 700) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE tokenizer with this pre-tokenizer."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([WORDS], trainer)
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def byte_level_spec(pre: str, control: Sequence[str] = (), **changes: Any) -> ByteLevelSpec:
    """A byte-level tokenizer with `control` tokens after the normal ones."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = trained(split, byte_level=True)
    tokens = (*sorted(vocab, key=vocab.__getitem__), *control)
    types = (TokenType.NORMAL,) * len(vocab) + (TokenType.CONTROL,) * len(control)
    values: dict[str, Any] = {"bos_id": None, "eos_id": None, "end_ids": frozenset(), "chat_template": None}
    values |= {"add_bos_token": False} | changes
    return ByteLevelSpec(pre=pre, tokens=tokens, token_types=types, merges=tuple(merges), **values)


def sentence_pieces(size: int = 600) -> dict[str, float]:
    """Pieces and scores, as SentencePiece BPE makes them: the earlier made, the better."""
    split = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    vocab, _ = trained(split, byte_level=False, size=size)
    runs = [SPACE * count for count in (2, 4, 3, 8)]
    words = sorted((token for token in vocab if len(token) > 1), key=vocab.__getitem__)
    pieces = [*runs, *(word for word in words if word not in runs)]
    letters = sorted(token for token in vocab if len(token) == 1)
    return {piece: -float(rank) for rank, piece in enumerate([*pieces, *letters])}


def sentence_piece_spec(control: Sequence[str] = (), **changes: Any) -> SentencePieceSpec:
    """A SentencePiece tokenizer: <unk>, <s>, </s>, further `control` tokens, byte tokens, pieces."""
    pieces = sentence_pieces()
    special = ("<unk>", "<s>", "</s>", *control)
    tokens = (*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces)
    types = (TokenType.UNKNOWN, *[TokenType.CONTROL] * (len(special) - 1))
    types = (*types, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * len(pieces))
    scores = (*[0.0] * (len(special) + 256), *pieces.values())
    values: dict[str, Any] = {"bos_id": 1, "eos_id": 2, "end_ids": frozenset({2}), "chat_template": None}
    values |= {"add_bos_token": True, "add_space_prefix": True} | changes
    return SentencePieceSpec(tokens=tokens, token_types=types, scores=scores, **values)


def byte_level_folder(
    folder: Path, pre: Any, special: Sequence[str], literal: Sequence[str] = (), *, bos: str | None = None
) -> tokenizers.Tokenizer:
    """Write a byte-level tokenizer.json; with `bos` its post-processor prepends that token."""
    vocab, merges = trained(pre, byte_level=True)
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer, made.decoder = pre, decoders.ByteLevel()
    return _saved(made, folder, special, literal, bos)


def sentence_piece_folder(
    folder: Path,
    special: Sequence[str],
    literal: Sequence[str] = (),
    *,
    scheme: str = "legacy",
    bos: str | None = "<s>",
) -> tokenizers.Tokenizer:
    """Write the tokenizer.json of a SentencePiece tokenizer with byte fallback.

    Args:
        scheme: "legacy" has Llama 2's normalizer, "first" and "always" a Metaspace, "never" is as Gemma's.
    """
    spec = sentence_piece_spec(special)
    ids = {token: id for id, token in enumerate(spec.tokens)}
    pieces = sentence_pieces()
    merges = sorted(
        (
            (piece[:cut], piece[cut:])
            for piece in pieces
            for cut in range(1, len(piece))
            if {piece[:cut], piece[cut:]} <= pieces.keys()
        ),
        key=lambda pair: (-pieces["".join(pair)], -len(pair[0])),
    )
    made = tokenizers.Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    joined = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    elif scheme == "never":
        made.normalizer = normalizers.Replace(" ", SPACE)
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    if scheme != "never":
        joined.append(decoders.Strip(" ", 1, 0))
    made.decoder = decoders.Sequence(joined)
    return _saved(made, folder, ["<unk>", "<s>", "</s>", *special], literal, bos)


def _saved(
    made: tokenizers.Tokenizer, folder: Path, special: Sequence[str], literal: Sequence[str], bos: str | None
) -> tokenizers.Tokenizer:
    made.add_special_tokens(list(special))
    made.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in literal])
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made


def write_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
