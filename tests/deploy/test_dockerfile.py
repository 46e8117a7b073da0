"""What can be known of images that are not built: their stages, what is pinned, what is copied, who runs them."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from pavane.server.config import add_flags

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
FINAL = ("cpu", "cuda")
BASES = re.compile(r"python:\$\{PYTHON\}-slim-bookworm|nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu24\.04")
WORDS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}


@dataclass
class Stage:
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)  # instruction, the rest

    def of(self, word: str) -> list[str]:
        return [rest for first, rest in self.lines if first == word]

    @property
    def variables(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for rest in self.of("ENV") for pair in shlex.split(rest))


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        assert word in WORDS, line
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(base)
        else:
            stage.lines.append((word, rest))
    return found


def test_the_image_for_cpus_is_the_one_without_a_target(stages: dict[str, Stage]) -> None:
    assert set(FINAL) < set(stages)
    assert [*stages][-1] == "cpu"


def test_everything_has_a_version(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        assert BASES.fullmatch(stage.base)
        for run in stage.of("RUN"):
            for packages in re.findall(r"apt-get install ([^&]*)", run):
                named = [word for word in packages.split() if not word.startswith("--")]
                assert all("=" in word for word in named), named
            assert "torch" not in run.replace("torch==${TORCH}", "").split()


def test_arguments_are_declared_where_they_are_used(stages: dict[str, Stage]) -> None:
    for name, stage in stages.items():
        known = set()
        for word, rest in stage.lines:
            if word == "ARG":
                known.add(rest.partition("=")[0])
            else:
                assert set(re.findall(r"\$\{(\w+)\}", rest)) <= known, (name, rest)


def test_what_is_copied_is_there(stages: dict[str, Stage]) -> None:
    ignored = (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)
    for stage in stages.values():
        for rest in stage.of("COPY"):
            if match := re.match(r"--from=(\S+) ", rest):
                assert match[1] in stages
        for script in re.findall(r"python (deploy/\S+)", " ".join(stage.of("RUN"))):
            assert script in allowed


@pytest.mark.parametrize("name", FINAL)
def test_who_runs_the_image_and_what_it_lacks(stages: dict[str, Stage], name: str) -> None:
    stage = stages[name]
    assert stage.of("USER") == ["65532:65532"]
    (copied,) = stage.of("COPY")
    assert copied.endswith(" /opt/pavane /opt/pavane"), "sources and toolkits stay behind"
    assert not re.search(r"nvcc|g\+\+|cuda-", " ".join(stage.of("RUN")))
    assert stage.variables["PATH"].startswith("/opt/pavane/bin:")
    assert {"PYTHONDONTWRITEBYTECODE", "HF_HOME"} <= stage.variables.keys()
    (command,) = map(json.loads, stage.of("CMD"))
    parser = argparse.ArgumentParser()
    add_flags(parser, {})
    assert command[0] == "serve"
    given, unknown = parser.parse_known_args(command[1:])
    assert given.host == "0.0.0.0"
    assert unknown in ([], ["--device", "cuda"])


def test_the_package_of_kernels_says_what_flashinfer_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "deploy" / "flashinfer_kernels.py"))
    package = tmp_path / "flashinfer_jit_cache"
    package.mkdir()
    (package / "__init__.py").write_text(script["package_text"]("0.6.18.post1"))
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module(package.name)
    assert made.__version__ == "0.6.18.post1"
    assert Path(made.get_jit_cache_dir()) == package / script["KERNELS"]


def test_kernels_are_those_that_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []
    attention = ModuleType("flashinfer.jit.attention")
    attention.gen_batch_prefill_module = lambda **given: made.append(given)  # type: ignore[attr-defined]
    for name in ("flashinfer", "flashinfer.jit"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, attention.__name__, attention)
    modules = runpy.run_path(str(ROOT / "deploy" / "flashinfer_kernels.py"))["modules"]
    for architectures, hopper in (("8.0", 0), ("8.0 9.0a", 2)):
        made.clear()
        monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", architectures)
        assert len(list(modules((64, 128)))) == 2 * 2 + hopper
    kinds = {(one["backend"], str(one["dtype_kv"]), one["head_dim_qk"]) for one in made}
    assert kinds == {
        (backend, f"torch.{dtype}", size)
        for backend, dtype in (("fa2", "bfloat16"), ("fa2", "float8_e4m3fn"), ("fa3", "bfloat16"))
        for size in (64, 128)
    }


def test_kernels_for_gpus_come_from_the_build_alone(stages: dict[str, Stage]) -> None:
    """And what is compiled at run time goes where a read-only root can be written."""
    variables = stages["cuda"].variables
    assert variables["FLASHINFER_DISABLE_JIT"] == "1"
    for name in ("FLASHINFER_WORKSPACE_BASE", "TRITON_CACHE_DIR"):
        assert variables[name].startswith("/tmp/")
    assert "FLASHINFER_CUDA_ARCH_LIST=9.0a" in stages["build-cuda"].of("ARG")
    assert any(index.endswith("/cu130") for index in stages["build-cuda"].of("ARG"))
