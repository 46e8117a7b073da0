"""Where the compiled kernels come from, and what is said when there are none."""

import ctypes
import shutil
from pathlib import Path

import pytest
from support.harness import INVARIANT

from pavane.kernels import native_build
from pavane.kernels.native_build import NoNativeKernelError, _file_name, _level, load_native

load = load_native.__wrapped__  # not what was loaded before
NATIVE = pytest.mark.skipif("decoder" not in INVARIANT, reason="no C++ compiler")


@NATIVE
def test_prebuilt_kernels_need_no_compiler_and_no_folder_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Path(load()._name)
    shutil.copy(built, tmp_path / built.name)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    library = load()
    assert isinstance(library, ctypes.CDLL)
    assert Path(library._name) == tmp_path / built.name


@NATIVE
def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Path(load()._name)
    (tmp_path / "pavane").mkdir()
    shutil.copy(built, tmp_path / "pavane" / built.name)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert Path(load()._name).parent == tmp_path / "pavane"


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoNativeKernelError, match=r"no C\+\+ compiler found: install g\+\+ \(or set CXX\)"):
        load()


@NATIVE
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(NoNativeKernelError, match="set XDG_CACHE_HOME to a writable folder"):
        load()


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(NoNativeKernelError, match="false failed"):
        load()
    assert not list(tmp_path.rglob("*.so"))


def test_a_level_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAVANE_NATIVE_LEVEL", "v9")
    with pytest.raises(NoNativeKernelError, match="named 'v9'"):
        load()


def test_a_change_of_the_sources_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(native_build.SOURCE, tmp_path / "native")
    before = _file_name(_level(""))
    monkeypatch.setattr(native_build, "SOURCE", tmp_path / "native")
    native_build._version.cache_clear()
    try:
        assert _file_name(_level("")) == before
        (tmp_path / "native" / "vec.h").write_text("// other\n")
        native_build._version.cache_clear()
        assert _file_name(_level("")) != before
    finally:
        native_build._version.cache_clear()


def test_what_cannot_be_loaded_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another compiler's OpenMP would be: nothing would ever build it again."""
    compiler = tmp_path / "cxx"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho text > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NoNativeKernelError, match="cxx made a library that cannot be loaded"):
        load()
    assert not list(tmp_path.rglob("*.so"))


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(NoNativeKernelError, match="there is no home folder"):
        load()
