"""What FlashInfer's compilations are told, with toolkits and wheels that are folders here."""

import os
from pathlib import Path

import pytest

from pavane.models import gpu_toolkit
from pavane.models.gpu_toolkit import FLAGS, HEADER, headers_of_wheel, point_to_toolkit


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NVIDIA's wheels share the package `nvidia`, which no file makes one."""
    folder = tmp_path / "nvidia" / "cu13" / "include"
    folder.mkdir(parents=True)
    (folder / HEADER).touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("CUDA_HOME", FLAGS):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    (nvcc.parents[1] / "include").mkdir()
    monkeypatch.setattr(gpu_toolkit, "TOOLKIT", nvcc)
    return nvcc.parents[1]


def test_headers_that_the_toolkit_lacks_are_those_of_the_wheel(
    wheel: Path, toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert headers_of_wheel() == wheel
    monkeypatch.setenv(FLAGS, "-lineinfo")
    for _ in range(2):
        point_to_toolkit()
        assert os.environ["CUDA_HOME"] == str(toolkit)
        assert os.environ[FLAGS] == f"-lineinfo -isystem {wheel}"


def test_a_whole_toolkit_is_left_alone(wheel: Path, toolkit: Path) -> None:
    (toolkit / "include" / HEADER).touch()
    point_to_toolkit()
    assert FLAGS not in os.environ


def test_another_toolkit_that_is_named_is_taken(
    wheel: Path, toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "mine"))
    point_to_toolkit()
    assert os.environ["CUDA_HOME"] == str(tmp_path / "mine")
    assert os.environ[FLAGS] == f"-isystem {wheel}"


def test_without_a_toolkit_there_is_nothing_to_say(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_toolkit, "TOOLKIT", tmp_path / "none")
    point_to_toolkit()
    assert {"CUDA_HOME", FLAGS}.isdisjoint(os.environ)
