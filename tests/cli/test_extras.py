import pytest

from pavane.cli import main as cli
from pavane.cli.extras import missing_package


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("rich.console", "pavane[cli]"),
        ("yaml", "pavane[cli]"),
        ("uvloop", "pavane[server,cli]"),
        ("xllamacpp", "pavane[server,cli,bench]"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(module: str, extra: str) -> None:
    text = missing_package(ModuleNotFoundError(name=module))
    assert module.partition(".")[0] in text
    assert f"pip install '{extra}'" in text


def test_a_missing_module_of_our_own_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError(name="pavane.nowhere"))


def test_the_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'uvloop'", name="uvloop")

    monkeypatch.setattr("pavane.cli.serve.run", run)
    assert cli.main(["serve"]) == 2
    assert (
        capsys.readouterr().err == "pavane serve: this needs the package 'uvloop': pip install 'pavane[server,cli]'\n"
    )
