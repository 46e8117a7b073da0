import re

import pytest

from pavane.cli import main
from pavane.cli.connect import add_connection_arguments, connection
from pavane.cli.extras import UsageError
from pavane.clients import TLS
from pavane.server.keys import Role, parse_keys


def test_a_new_key_and_its_line(capsys, tmp_path):
    words = ["--role", "admin", "--priority", "-2", "--shared", "docs,x", "--name", "ci", "--expires", "2100-01-01"]
    assert main.main(["keys", "new", "--tenant", "team-a", *words]) == 0
    said = capsys.readouterr()
    secret, line = said.out.splitlines()
    assert re.fullmatch(r"pvn_[A-Za-z0-9_-]{43}", secret)
    assert secret not in said.err + line
    key = parse_keys(line).find(secret)
    assert (key.tenant, key.role, key.priority, key.shared, key.name) == ("team-a", Role.ADMIN, -2, {"docs", "x"}, "ci")
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{line}\nsha256:{'0' * 64} tenant=b expires=2020-01-01\n")
    assert main.main(["keys", "list", str(path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{line[:15]}... {line[72:]}"
    assert second == "sha256:00000000... tenant=b role=user expires=2020-01-01T00:00:00Z (expired)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["new", "--tenant", "a b"], "--tenant='a b'"),
        (["new", "--tenant", "a", "--role", "root"], "--role='root'; use user or admin"),
        (["new", "--tenant", "a", "--priority", "x"], "--priority='x'"),
        (["new", "--tenant", "a", "--expires", "2020-01-01"], "--expires=2020-01-01 is over already"),
        (["list", "/nowhere"], "/nowhere: "),
    ],
)
def test_wrong_words_are_named(capsys, words, said):
    assert main.main(["keys", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pavane keys: ")
    assert said in error


def parsed(words, environment=None):
    import argparse

    parser = argparse.ArgumentParser()
    add_connection_arguments(parser, environment or {})
    return connection(parser.parse_args(words))


def test_connections_are_made_of_flags_and_variables(tmp_path):
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("pem")
    ca, cert, key = (str(tmp_path / name) for name in ("ca", "cert", "key"))
    assert parsed([]) == {"target": "localhost:50051", "tls": None, "api_key": ""}
    assert parsed(["--tls", "--server", "far:1"])["tls"] is True
    variables = {"PAVANE_API_KEY": "k", "PAVANE_TLS_CA": ca, "PAVANE_CLIENT_CERT": cert, "PAVANE_CLIENT_KEY": key}
    assert parsed(["--server", "far:1"], variables) == {
        "target": "far:1", "tls": TLS(ca=ca, cert=cert, key=key), "api_key": "k",
    }  # fmt: skip
    assert parsed(["--tls-ca", cert], variables)["tls"].ca == cert
    assert parsed(["--no-tls", "--server", "far:1", "--api-key", "k"]) == {
        "target": "far:1",
        "tls": False,
        "api_key": "k",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", "far:1", "--api-key", "secret"], "would be sent to far:1 .*--tls.*--no-tls"),
        (["--tls-ca", "/nowhere"], "TLS ca /nowhere cannot be read"),
        (["--client-cert", "x"], "without its key"),
        (["--api-key", "sec ret"], "characters that no key has"),
    ],
)
def test_connections_that_cannot_be_are_refused(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        parsed(words)
    assert "secret" not in str(caught.value)


def test_keys_stay_in_the_clear_only_on_this_machine():
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:///tmp/x"):
        parsed(["--server", target, "--api-key", "k"])
    for target in ("10.0.0.1:1", "localhost.example:1", "[2001:db8::1]:1", "dns:///far:1"):
        with pytest.raises(UsageError):
            parsed(["--server", target, "--api-key", "k"])
