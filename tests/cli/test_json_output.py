"""Where JSON goes, and what is said of a place that cannot be written."""

from __future__ import annotations

import argparse
import json

import pytest

from pavane.bench.arguments import add_serve
from pavane.cli.extras import UsageError
from pavane.cli.json_output import check_json, write_json


def test_it_goes_to_a_file_or_to_standard_output(tmp_path, capsys):
    path = tmp_path / "out.json"
    check_json(str(path))
    write_json({"é": [1]}, str(path))
    write_json({"é": [1]}, "-")
    write_json({"é": [1]}, None)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(capsys.readouterr().out) == {"é": [1]}


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(UsageError, match="is a folder; name a file in it"):
        check_json(str(tmp_path))
    with pytest.raises(UsageError, match=r"missing/out\.json cannot be written"):
        check_json(str(tmp_path / "missing" / "out.json"))
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_json({}, str(tmp_path / "missing" / "out.json"))
    check_json("-")
    check_json(None)


def test_flags_for_the_server_are_the_words_of_a_line(capsys):
    parser = argparse.ArgumentParser()
    add_serve(parser)
    assert parser.parse_args(["--serve", "--num-slots 4096 --model 'a b'"]).serve == [
        "--num-slots", "4096", "--model", "a b",
    ]  # fmt: skip
    assert parser.parse_args(["--serve=--admin"]).serve == ["--admin"]
    assert parser.parse_args([]).serve == []
    with pytest.raises(SystemExit):
        parser.parse_args(["--serve", "'--num-slots 1"])
    assert "No closing quotation" in capsys.readouterr().err
