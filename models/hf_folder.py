"""Hugging Face folders without their weights: config.json and the name."""

import json
from pathlib import Path
from typing import Any

from pavane.models.config import ModelConfig, Window
from pavane.models.errors import ModelError
from pavane.models.hf_config import from_hf_config


def read_config(folder: Path) -> tuple[ModelConfig, Window | None]:
    """Raises ModelError."""
    return from_hf_config(read_json(folder / "config.json"))


def folder_name(folder: Path) -> str:
    """The folder's, or of a snapshot in the cache of the hub (models--ORG--NAME/snapshots/COMMIT) ORG/NAME."""
    parts = folder.resolve().parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return "/".join(parts[-3].split("--")[1:])
    return parts[-1]


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"there is no {path}; give a GGUF file or the folder of a Hugging Face model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); download it again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is not a JSON object; download it again")
    return values
