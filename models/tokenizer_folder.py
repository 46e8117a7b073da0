"""The tokenizer of a Hugging Face folder, as plain data."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerJsonSpec

MAX_TOKENS = 2**24  # sixty times the largest vocabularies; tables are as long as the highest id


def tokenizer_from_folder(folder: Path) -> TokenizerJsonSpec:
    """Read tokenizer.json and what the other files say about BOS, the ends of an answer and the chat template.

    tokenizer_config.json names the tokens (special_tokens_map.json where it does not); answers end at its EOS token and
    at those of generation_config.json, without which config.json counts. A chat_template.jinja or chat_template.json
    wins over tokenizer_config.json. Whether BOS is prepended is not read from `add_bos_token`: as in transformers 5,
    tokenizer.json's post-processor decides.

    Raises:
        ModelError: a file is missing or malformed; the text names file and field, and says what to do.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json: download it with the model, or make it from the tokenizer's other files "
            "with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    text = _read(path)
    ids = _ids(path, _parsed(path, text))
    config = _object(folder / "tokenizer_config.json")
    names = _object(folder / "special_tokens_map.json")
    added = tuple(_added(folder / "tokenizer_config.json", config))
    ids.update((content, id) for id, content, _ in added if content not in ids)
    bos_id, eos_id = (_named(folder, config, names, ids, key) for key in ("bos_token", "eos_token"))
    return TokenizerJsonSpec(
        text=text,
        added=added,
        bos_id=bos_id,
        eos_id=eos_id,
        end_ids=frozenset(_end_ids(folder, max(ids.values(), default=-1)))
        | ({eos_id} if eos_id is not None else set()),
        chat_template=_chat_template(folder, config),
    )


def _ids(path: Path, definition: Any) -> dict[str, int]:
    """The id of every token that tokenizer.json has."""
    model = definition.get("model") if isinstance(definition, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        raise ModelError(f"{path}: model.vocab is missing or not an object, as BPE has it; choose a model with BPE")
    added = definition.get("added_tokens") or []
    try:
        ids = {**vocab, **{token["content"]: token["id"] for token in added}}
    except (TypeError, KeyError) as error:
        raise ModelError(f"{path}: added_tokens is malformed ({error!r}); download the file again") from error
    for content, id in ids.items():
        if not isinstance(id, int) or not 0 <= id < MAX_TOKENS:
            raise ModelError(
                f"{path}: the id of {content!r} is {id!r}, not one below {MAX_TOKENS}; download the file again"
            )
    return ids


def _added(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[int, str, bool]]:
    added = config.get("added_tokens_decoder") or {}
    if not isinstance(added, dict) or not all(id.isdecimal() for id in added):
        raise ModelError(f"{path}: added_tokens_decoder must map ids to tokens; download the file again")
    for id, token in sorted(added.items(), key=lambda item: int(item[0])):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ModelError(f"{path}: added_tokens_decoder[{id!r}] has no content; download the file again")
        yield int(id), token["content"], bool(token.get("special"))


def _named(
    folder: Path, config: Mapping[str, Any], names: Mapping[str, Any], ids: Mapping[str, int], key: str
) -> int | None:
    """The id of the token that the files call `key`."""
    for file, values in (("tokenizer_config.json", config), ("special_tokens_map.json", names)):
        value = values.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if content is None:
            continue
        if not isinstance(content, str) or content not in ids:
            raise ModelError(f"{folder / file}: {key} = {content!r} is no token of tokenizer.json; correct one of them")
        return ids[content]
    return None


def _end_ids(folder: Path, last: int) -> Iterator[int]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = _object(path).get("eos_token_id")
        if value is None:
            continue
        for id in value if isinstance(value, list) else [value]:
            if not isinstance(id, int) or not 0 <= id <= last:
                raise ModelError(f"{path}: eos_token_id = {value!r} is no token id (0..{last}); correct it")
            yield id
        return


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read(path)
    path = folder / "chat_template.json"
    if not path.is_file():
        path = folder / "tokenizer_config.json"
        value = config.get("chat_template")
    else:
        value = _object(path).get("chat_template")
    if isinstance(value, list):  # several named ones
        named = [entry for entry in value if isinstance(entry, dict) and entry.get("name") == "default"]
        value = named[0].get("template") if named else None
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{path}: chat_template is not a string; put the template into chat_template.jinja")
    return value


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no such file."""
    if not path.is_file():
        return {}
    value = _parsed(path, _read(path))
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no JSON object; download the file again")
    return value


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no valid JSON ({error}); download the file again") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); download the file again") from error
