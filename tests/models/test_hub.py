"""Ids on the hub, against an endpoint on a loopback port. The library reads its environment when it is imported, so
that every environment is a process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_hub import FakeHub, fake_hub

from pavane.models.errors import ModelError
from pavane.models.hub import download, is_hub_id

DOWNLOAD = """
import json, sys, warnings
from pavane.models.errors import ModelError
from pavane.models.hub import download
assert "huggingface_hub" not in sys.modules
results = []
for model, revision, weights in json.loads(sys.argv[1]):
    try:
        results.append(str(download(model, revision, weights=weights)))
    except ModelError as error:
        results.append(f"ModelError: {error}")
print(json.dumps(results))
"""
Case = tuple[str, str, bool]
FILES = {
    "config.json": "config",
    "tokenizer.json": "tokenizer",
    "model.safetensors.index.json": "index",
    "model-00001-of-00002.safetensors": "one",
    "model-00002-of-00002.safetensors": "two",
    "consolidated.safetensors": "third",
    "pytorch_model.bin": "another format",
    "small.gguf": "GGUF",
}


def run(home: Path, cases: list[Case], endpoint: str, **variables: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, json.dumps(cases)],
        capture_output=True,
        text=True,
        timeout=120,
        env=inherited | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[str] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        for revision in ("main", "v2"):
            folder = tmp_path_factory.mktemp(revision)
            for name, text in FILES.items():
                (folder / name).write_text(text + (revision if name == "tokenizer.json" else ""))
            hub.models["org/model", revision] = folder
        hub.models["org/gated", "main"] = folder
        hub.gated.add("org/gated")
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_what_serving_needs_is_fetched_once_and_served_offline(hub: FakeHub, home: Path) -> None:
    config = {"config.json", "tokenizer.json"}
    weights = {name for name in FILES if name.startswith("model")}
    cases: list[Case] = [("org/model", "", False), ("org/model", "v2", True), ("org/model:small.gguf", "", False)]
    first, second, file = run(home, cases, hub.url)
    assert names(first) == config | {"small.gguf"}
    assert names(second) == config | weights
    assert Path(first).is_relative_to(home)
    assert (Path(second) / "tokenizer.json").read_text() == "tokenizerv2"
    assert Path(file).read_text() == "GGUF"
    # What the two revisions share comes once.
    fetched = sorted(["tokenizer.json", *config, *weights, "small.gguf"])
    assert sorted(hub.fetched) == fetched

    offline: list[Case] = [("org/model", "v2", True), ("org/model", "", True), ("org/other", "", True)]
    cached, incomplete, absent = run(home, offline, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert cached == second
    for error in (incomplete, absent):
        assert error.startswith("ModelError: --model org/")
        assert f"in the cache {home}/hub, and HF_HUB_OFFLINE is set: unset it" in error
    assert sorted(hub.fetched) == fetched


def test_errors_say_what_to_do(hub: FakeHub, home: Path) -> None:
    cases: list[Case] = [
        ("org/nothing", "", False),
        ("org/model", "v3", False),
        ("org/model:other.gguf", "", False),
        ("org/gated", "", False),
    ]
    nothing, revision, file, gated = run(home, cases, hub.url)
    assert nothing == (
        f"ModelError: --model org/nothing: {hub.url} has no such model, or it is private: check the spelling, or set "
        "HF_TOKEN"
    )
    assert "--model org/model --revision v3: there is no such branch, tag or commit" in revision
    assert f"the model has no file other.gguf; look at {hub.url}/org/model/tree/main" in file
    assert f"accept its conditions at {hub.url}/org/gated and set HF_TOKEN" in gated


def test_the_token_opens_what_is_gated(hub: FakeHub, home: Path) -> None:
    (folder,) = run(home, [("org/gated", "", False)], hub.url, HF_TOKEN=hub.token)
    assert names(folder) == {"config.json", "tokenizer.json"}


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    (error,) = run(tmp_path, [("org/model", "", False)], "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached (ConnectError" in error
    assert "check the network and HF_ENDPOINT, or give a path" in error
    assert "\n" not in error


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"--model org/model .* pip install huggingface_hub"):
        download("org/model", "", weights=True)


def test_what_is_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in ("org/model", "Qwen/Qwen2.5-0.5B-Instruct", "org/model:a.gguf", "org/m-GGUF:sub/a_b.Q4_K.gguf"):
        assert is_hub_id(model)
    for model in ("", "model", "./org/model", "/org/model", "a/b/c", "models/small.gguf", "org/model:config.json"):
        assert not is_hub_id(model)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_hub_id("org/model"), "what is there as a path is a path"
