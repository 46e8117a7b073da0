"""SentencePiece BPE with byte fallback as GGUF files describe it: pieces and their scores.

The pieces become merges as in the converters of transformers (`generate_merges`): every way to put a piece together
from two others is a merge, best score first. SentencePiece takes the leftmost of equal scores, the merges the longer
left part; they could differ only where two splits of the same piece overlap.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import normalizers
from tokenizers.models import BPE

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import SentencePieceSpec, TokenType
from pavane.server.text.vocabulary import SPACE, Vocabulary, added_encoder, bos_of, check_distinct, control_ids

_BYTES = {f"<0x{byte:02X}>": byte for byte in range(0x100)}


def sentence_piece(spec: SentencePieceSpec) -> Vocabulary:
    """The vocabulary and encoders of a GGUF file.

    Raises:
        ModelError: the vocabulary is inconsistent, has no byte fallback, or literal tokens with a space in them.
    """
    bos_id = bos_of(spec)
    check_distinct(spec.tokens)
    control = control_ids(spec.tokens, spec.token_types, spec)
    data = tuple(map(_spelled, range(len(spec.tokens)), spec.tokens, spec.token_types))
    literal = {id for id, kind in enumerate(spec.token_types) if kind is TokenType.USER_DEFINED}
    for id in literal - control:
        if SPACE in spec.tokens[id] or " " in spec.tokens[id]:
            raise ModelError(
                f"tokenizer.ggml.tokens has the user-defined token {spec.tokens[id]!r} with a space in it, which is "
                "not supported; serve the model's Hugging Face folder with its tokenizer.json"
            )
    pieces = [
        id
        for id, kind in enumerate(spec.token_types)
        if kind in (TokenType.NORMAL, TokenType.BYTE) and id not in control
    ]
    merges = merges_of_scores(
        {spec.tokens[id]: spec.scores[id] for id in pieces if spec.token_types[id] is TokenType.NORMAL}
    )
    plain = _encoder(spec, pieces, merges, literal - control, spec.add_space_prefix)
    return Vocabulary(
        tokens=spec.tokens,
        data=data,
        control_ids=control,
        byte_ids=fallback_ids({spec.tokens[id]: id for id in pieces if spec.token_types[id] is TokenType.BYTE}),
        bos_id=bos_id,
        special=_encoder(spec, pieces, merges, literal | control, spec.add_space_prefix),
        plain=plain,
        inner=_encoder(spec, pieces, merges, literal - control, False) if spec.add_space_prefix else plain,
    )


def merges_of_scores(scores: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, in the order in which they are merged."""
    merges = [
        (score, cut, len(piece) - cut, piece)
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [(piece[:cut], piece[cut:]) for _, cut, _, piece in merges]


def fallback_ids(ids: dict[str, int]) -> dict[int, int]:
    """The token of each byte. Raises ModelError if one of the 256 is missing."""
    if missing := [token for token in _BYTES if token not in ids]:
        raise ModelError(
            f"the vocabulary has no byte token {missing[0]}: SentencePiece without byte fallback is not supported, "
            "choose a model with it"
        )
    return {byte: ids[token] for token, byte in _BYTES.items()}


def piece_bytes(token: str) -> bytes:
    """What a piece or byte token adds to a text."""
    byte = _BYTES.get(token)
    return token.replace(SPACE, " ").encode("utf-8") if byte is None else bytes([byte])


def _spelled(id: int, token: str, kind: TokenType) -> bytes:
    if kind is TokenType.UNUSED:
        return b""
    if kind is TokenType.NORMAL:
        return token.replace(SPACE, " ").encode("utf-8")
    if kind is TokenType.BYTE and token not in _BYTES:
        raise ModelError(
            f"token {id} ({token!r}) is a byte token, but not spelled like <0x0A>; convert the model again"
        )
    return bytes([_BYTES[token]]) if kind is TokenType.BYTE else token.encode("utf-8")


def _encoder(
    spec: SentencePieceSpec, pieces: Sequence[int], merges: list[tuple[str, str]], added: set[int], prefix: bool
) -> tokenizers.Tokenizer:
    ids = {spec.tokens[id]: id for id in (*pieces, *added)}
    encoder = added_encoder(BPE(vocab=ids, merges=merges, byte_fallback=True), spec.tokens, added)
    spaces = normalizers.Replace(" ", SPACE)
    encoder.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    return encoder
