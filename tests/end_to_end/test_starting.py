"""A server that cannot start says why in one line and leaves with 2. Settings are tried without a process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
from end_to_end.served import FLAGS, PATIENCE, ServerProcess, command, environment

import pavane
from pavane.cli.main import main
from pavane.kernels.native_build import load_native
from pavane.models.default import default_model_path


def unsupported(path: Path) -> Path:
    """A model whose keys would be scaled as nobody here does."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cut(path: Path) -> Path:
    """The first part of the default model."""
    with default_model_path().open("rb") as whole, path.open("wb") as part:
        part.write(whole.read(3 << 20))
    return path


FREE = ["--port", "0", "--metrics-port", "0"]
# With the file or port that the case needs put in for {}.
PROCESSES: dict[str, tuple[list[str], tuple[str, ...], Callable[[Path], Path] | None]] = {
    "missing file": (["--model", "/nowhere/model.gguf"], ("/nowhere/model.gguf", "no such file"), None),
    "cut off": ([*FREE, "--model", "{}"], ("{}", "truncated or corrupt", "download it again"), cut),
    "unsupported": ([*FREE, "--model", "{}"], ("llama.rope.scaling.type = 'longrope'", "not supported"), unsupported),
    "port in use": (["--port", "{}", "--metrics-port", "-1"], ("127.0.0.1:{}", "in use", "another --port"), None),
    "metrics port in use": (
        ["--port", "0", "--metrics-port", "{}"],
        ("metrics on 127.0.0.1:{}", "--metrics-port"),
        None,
    ),
}
Ends = dict[str, tuple[tuple[str, ...], "subprocess.CompletedProcess[str]"]]


@pytest.fixture(scope="module")
def ends(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """All of them, two at a time: importing is most of their time."""
    folder = tmp_path_factory.mktemp("models")
    ports = {
        "port in use": server.target.rpartition(":")[2],
        "metrics port in use": server.metrics_url.rpartition(":")[2].removesuffix("/metrics"),
    }

    def run(name: str) -> tuple[tuple[str, ...], subprocess.CompletedProcess[str]]:
        flags, words, make = PROCESSES[name]
        value = str(make(folder / f"{name.replace(' ', '-')}.gguf")) if make else ports.get(name, "")
        done = subprocess.run(
            command(*(flag.replace("{}", value) for flag in flags)),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(),
            check=False,
        )
        return tuple(word.replace("{}", value) for word in words), done

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(PROCESSES, pool.map(run, PROCESSES), strict=True))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_does_not_start(ends: Ends, name: str) -> None:
    words, done = ends[name]
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "add_port.cc" not in line]  # gRPC's own word on a bad port
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pavane serve: ")
    for word in words:
        assert word in lines[0]
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("flags", "variables", "words"),
    [
        (["--port", "70000"], {}, ("--port is 70000", "0 to 65535")),
        (["--num-slots", "15"], {}, ("--num-slots is 15", "16 to")),
        (["--host-cache-gb", "-1"], {}, ("--host-cache-gb is -1", "0 to")),
        (["--workflow-ttl", "nan"], {}, ("--workflow-ttl is nan",)),
        ([*FREE, "--model", "/nowhere"], {}, ("--model /nowhere", "no such file or folder", "ORG/NAME")),
        ([*FREE, "--model", "/"], {}, ("/ has no config.json", "give a GGUF file or a Hugging Face folder")),
        (["--revision", "v2"], {}, ("--revision is v2", "leave it out")),
        (["--load-format", "random"], {}, ("--load-format", "'random'", "dummy")),
        (["--num-slots", "many"], {}, ("--num-slots", "'many'")),
        (["--dtype", "int3"], {}, ("--dtype", "'int3'", "bfloat16")),
        (["--slots", "5"], {}, ("--slots",)),
        ([*FREE, "--tenants", "/nowhere/t.json"], {}, ("--tenants /nowhere/t.json", "cannot be read")),
        (FREE, {"PAVANE_TENANTS": "/"}, ("--tenants /", "cannot be read")),
        ([], {"PAVANE_PORT": "many"}, ("PAVANE_PORT=many", "not a whole number")),
        ([], {"PAVANE_DRAIN_TIMEOUT": "long"}, ("PAVANE_DRAIN_TIMEOUT=long", "not a number")),
        ([], {"PAVANE_NUM_SLOTS": "3"}, ("--num-slots is 3", "16 to")),
        ([], {"PAVANE_DTYPE": "int3"}, ("--dtype is 'int3'", "bfloat16")),
        pytest.param(
            ["--port", "70000"],  # ends it here if nothing else does
            {"PAVANE_BATCH_INVARIANT": "maybe"},
            ("PAVANE_BATCH_INVARIANT=maybe",),
        ),
    ],
)
def test_settings(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    variables: dict[str, str],
    words: tuple[str, ...],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        status: object = main(["serve", *flags])
    except SystemExit as leaving:  # argparse leaves by itself, after some lines of usage
        status = leaving.code
    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("pavane")
    for word in words:
        assert word in last


def test_without_compiler_and_without_a_folder_to_write_to(tmp_path: Path) -> None:
    """As in an image: kernels prebuilt in the package, nothing on the path, no home, sources that cannot be written."""
    package = tmp_path / "site" / "pavane"
    shutil.copytree(Path(pavane.__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__", "prebuilt"))
    built = Path(load_native()._name)
    prebuilt = package / "kernels" / "native" / "prebuilt"
    prebuilt.mkdir()
    shutil.copy(built, prebuilt / built.name)
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "PATH"), "/proc/nowhere")
    server = ServerProcess(
        *FLAGS, "--log-level", "info", PYTHONPATH=str(package.parent), PYTHONDONTWRITEBYTECODE="1", **nowhere
    )
    try:
        server.wait_ready()
        assert str(prebuilt / built.name) in Path(f"/proc/{server.process.pid}/maps").read_text()
    finally:
        assert server.stop() == 0
    assert "Traceback" not in server.final_log
