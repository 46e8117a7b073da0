"""Models from the Hugging Face hub, by their id, through the library's own cache.

`huggingface_hub` is imported only when an id is given. It reads HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE itself.
"""

import re
from pathlib import Path

from pavane.models.errors import ModelError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w./-]+\.gguf)?")

_CONFIG = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
)
# Not *.safetensors: some models come a second time, in their maker's own format.
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


def is_hub_id(model: str) -> bool:
    """ORG/NAME, or ORG/NAME:FILE.gguf for one file of it; what is there as a path is a path."""
    return bool(_ID.fullmatch(model)) and (":" in model or not model.endswith(".gguf")) and not Path(model).exists()


def download(model: str, revision: str, *, weights: bool) -> Path:
    """Fetch what serving needs, unless it is in the cache.

    Args:
        model: a hub id, see `is_hub_id`.
        revision: branch, tag or commit; empty: main.
        weights: False fetches only config and tokenizer.

    Returns:
        The folder, or the GGUF file that the id names.

    Raises:
        ModelError: not found, gated, not reachable, offline and not in the cache; the text says what to do.
    """
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub import errors as hub
    except ImportError:
        raise ModelError(
            f"--model {model} is a model of the Hugging Face hub, for which a package is missing: "
            "pip install huggingface_hub, or give the path of a folder or GGUF file"
        ) from None
    name, _, file = model.partition(":")
    patterns = [file] if file else [*_CONFIG, *(_WEIGHTS if weights else ())]
    asked = f"--model {name}" + (f" --revision {revision}" if revision else "")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except hub.GatedRepoError as error:
        raise ModelError(
            f"{asked}: access must be granted: accept its conditions at {constants.ENDPOINT}/{name} and set HF_TOKEN "
            "to a token of that account"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelError(
            f"{asked}: {constants.ENDPOINT} has no such model, or it is private: check the spelling, or set HF_TOKEN"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(f"{asked}: there is no such branch, tag or commit; choose another --revision") from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        place = f"not (or not completely) in the cache {constants.HF_HUB_CACHE}"
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"{asked}: {place}, and HF_HUB_OFFLINE is set: unset it, or give a path of the model"
            ) from error
        raise ModelError(
            f"{asked}: {place}, and {constants.ENDPOINT} cannot be reached ({_reason(error)}): check the network and "
            "HF_ENDPOINT, or give a path of the model"
        ) from error
    except Exception as error:  # whatever the library and its HTTP client raise
        raise ModelError(f"{asked}: the download failed ({type(error).__name__}: {_line(error)}); try again") from error
    if file and not (folder / file).is_file():
        raise ModelError(f"{asked}: the model has no file {file}; look at {constants.ENDPOINT}/{name}/tree/main")
    return folder / file if file else folder


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {_line(cause)}" if cause else _line(error)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
