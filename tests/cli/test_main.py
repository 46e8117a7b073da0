import subprocess
import sys

import pytest

from pavane.cli import main


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for command in ("demo", "chat", "run"):
        assert f"\n    {command} " in text
    assert "examples:" in text


@pytest.mark.parametrize("command", ["demo", "chat", "run"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main.main([command, "--help"])
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["dance"])
    assert end.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def test_help_loads_no_command():
    code = (
        "import sys, pavane.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print(*({'torch', 'numpy', 'rich', 'yaml'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("command", [["chat"], ["run", "debate.yaml"]])
def test_no_server_is_said_in_one_line(command, capsys):
    assert main.main([*command, "--server", "127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert "no server answers at 127.0.0.1:1" in error
    assert error.count("\n") == 1


def test_a_benchmark_refuses_sizes_it_cannot_measure(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["bench", "chat", "--repeat", "0"])
    assert end.value.code == 2
    assert "argument --repeat: 0 is too small; use 1 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["bench", "all", "--threads", "two"])
    assert "'two' is not a whole number" in capsys.readouterr().err


def test_a_benchmark_whose_server_does_not_start_says_so_in_short(capsys):
    assert main.main(["bench", "chat", "--model", "no-such.gguf"]) == 1
    error = capsys.readouterr().err
    assert "pavane bench chat: the server ended with status" in error
    assert "no-such.gguf: there is no such file" in error
