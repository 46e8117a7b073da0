"""The model's tokenizer: byte-level BPE, with control tokens kept apart from text."""

from collections.abc import Iterable

import tokenizers
from tokenizers import pre_tokenizers
from tokenizers.models import BPE

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerSpec, TokenType
from pavane.server.text.byte_alphabet import BYTE_OF_CHAR

_LLAMA_3_SPLIT = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class Tokenizer:
    """Immutable after construction and usable from any thread; `encode` releases the GIL.

    A token is *control* if the vocabulary says so, if it begins or ends text, or if the chat template writes it: such
    a token is never made from text that users sent (`special=False`), and it has no text of its own.

    Characters none of whose bytes the vocabulary has are left out, as the model's own tokenizer does (SmolLM2 has no
    token for a few ASCII control codes, for instance U+0004).
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        """Build both encoders.

        Raises:
            ModelError: the vocabulary is inconsistent: double or misspelt tokens, merges of unknown tokens.
        """
        self.vocab_size = len(spec.tokens)
        self.bos_id = spec.bos_id if spec.add_bos_token else None
        self.eos_ids = frozenset(id for id in (spec.eos_id, spec.eot_id, spec.eom_id) if id is not None)
        self.control_ids = _control_ids(spec)
        if spec.add_bos_token and spec.bos_id is None:
            raise ModelError(
                "tokenizer.ggml.add_bos_token is set, but bos_token_id is missing; convert the model again"
            )
        self._bytes = _spelled(spec)
        self._control_text = {spec.tokens[id]: id for id in sorted(self.control_ids)}
        self._byte_ids = _byte_ids(spec, self._bytes)
        normal = {id for id, kind in enumerate(spec.token_types) if kind is TokenType.NORMAL}
        literal = {id for id, kind in enumerate(spec.token_types) if kind is TokenType.USER_DEFINED}
        self._plain = _encoder(spec, normal, literal - self.control_ids)
        self._special = _encoder(spec, normal, literal | self.control_ids)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`, without BOS; control tokens spelled in it become control tokens only with `special`."""
        encoder = self._special if special else self._plain
        # The batch call releases the GIL, the single one does not.
        return list(encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids whose bytes are exactly `data`; what is no valid UTF-8 becomes one token per byte."""
        ids = []
        while data:
            try:
                valid, broken, data = data.decode("utf-8"), b"", b""
            except UnicodeDecodeError as error:
                valid, broken, data = (
                    data[: error.start].decode("utf-8"),
                    data[error.start : error.end],
                    data[error.end :],
                )
            ids += self.encode(valid, special=False)
            ids += [self._byte_ids[byte] for byte in broken]
        return ids

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD. Control tokens are spelled out only with `special`.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        return b"".join(self.bytes_of(id, special=special) for id in ids).decode("utf-8", errors="replace")

    def bytes_of(self, id: int, *, special: bool = False) -> bytes:
        """What token `id` adds to the text: nothing for a control token, unless `special`.

        Raises:
            ValueError: the id is outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"token id {id} is outside the vocabulary (0..{self.vocab_size - 1})")
        return b"" if id in self.control_ids and not special else self._bytes[id]

    def token_bytes(self) -> list[bytes | None]:
        """What every token adds to the text, by id; None for those that add none: control and unused tokens."""
        return [None if id in self.control_ids else data or None for id, data in enumerate(self._bytes)]

    def control_id(self, text: str) -> int | None:
        """The id of the control token spelled `text`, None if there is none."""
        return self._control_text.get(text)


def _control_ids(spec: TokenizerSpec) -> frozenset[int]:
    named = {spec.bos_id, spec.eos_id, spec.eot_id, spec.eom_id}
    template = spec.chat_template or ""

    def is_control(id: int) -> bool:
        kind = spec.token_types[id]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN) or id in named:
            return True
        # Some converters mark the template's own tokens as user-defined.
        return kind is TokenType.USER_DEFINED and spec.tokens[id] in template

    return frozenset(id for id in range(len(spec.tokens)) if is_control(id))


def _spelled(spec: TokenizerSpec) -> tuple[bytes, ...]:
    """The bytes of every token; none for unused ones."""
    spelled = []
    for id, (token, kind) in enumerate(zip(spec.tokens, spec.token_types, strict=True)):
        if kind is TokenType.UNUSED:
            spelled.append(b"")
        elif kind is TokenType.NORMAL:
            try:
                spelled.append(bytes(BYTE_OF_CHAR[char] for char in token))
            except KeyError as error:
                raise ModelError(
                    f"token {id} ({token!r}) has a character outside the byte alphabet; convert the model again"
                ) from error
        else:
            spelled.append(token.encode("utf-8"))
    return tuple(spelled)


def _byte_ids(spec: TokenizerSpec, spelled: tuple[bytes, ...]) -> dict[int, int]:
    """The token of each single byte. Every byte of a normal token has one, so that any part of it can be written."""
    normal = [id for id, kind in enumerate(spec.token_types) if kind is TokenType.NORMAL]
    single = {spelled[id][0]: id for id in normal if len(spelled[id]) == 1}
    for id in normal:
        if not single.keys() >= set(spelled[id]):
            raise ModelError(f"token {id} has a byte that is no token itself; convert the model again")
    return single


def _encoder(spec: TokenizerSpec, normal: set[int], added: set[int]) -> tokenizers.Tokenizer:
    """An encoder that makes `normal` tokens by merges and takes `added` ones from the text as they stand."""
    if len(set(spec.tokens)) != len(spec.tokens):
        raise ModelError("tokenizer.ggml.tokens has the same token twice; convert the model again")
    ids = {spec.tokens[id]: id for id in normal | added}
    try:
        model = BPE(vocab=ids, merges=list(spec.merges), ignore_merges=spec.pre == "llama-bpe")
    except Exception as error:  # the library raises no narrower one
        raise ModelError(f"tokenizer.ggml.merges do not fit the tokens ({error}); convert the model again") from error
    encoder = tokenizers.Tokenizer(model)
    encoder.pre_tokenizer = _pre_tokenizer(spec.pre)
    encoder.add_tokens([tokenizers.AddedToken(spec.tokens[id], normalized=False) for id in sorted(added)])
    return encoder


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "llama-bpe":
        split = pre_tokenizers.Split(tokenizers.Regex(_LLAMA_3_SPLIT), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ModelError(f"tokenizer.ggml.pre = {pre!r} is not supported")
