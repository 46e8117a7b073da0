import json

import pytest

from pavane.bench.report import Bar, Figure, Report, at_least, at_most, emit, table
from pavane.bench.stats import Interval

FIGURES = [
    Figure.of("decode", Interval(2.49951, 2.3, 2.7), at_least(2.5), "100 tok/s", "40 tok/s"),
    Figure.of("one repetition", Interval(123.4, 123.4, 123.4), None, "1 s", "123 s"),
    Figure("share", 0.1004, at_most(0.1)),
    Figure("other share", 0.1, at_most(0.1)),
]


def test_the_table_says_what_is_met_and_what_is_not():
    lines = table(FIGURES).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["decode", "one repetition", "share", "other share"]
    assert " ".join(lines[2].split()[1:]) == "100 tok/s 40 tok/s 2.50 2.30 - 2.70 >= 2.5 MISSED"
    assert lines[3].split("tok/s")[-1].split()[-1] == "123"
    assert lines[4].split()[1:] == ["0.100", "<=", "0.1", "MISSED"]
    assert lines[5].split()[2:] == ["0.100", "<=", "0.1", "met"]
    assert {lines[i].index(sign) for i, sign in ((2, ">="), (4, "<="), (5, "<="))} == {lines[0].index("bar")}


def test_a_bar_has_a_sign_that_is_known():
    with pytest.raises(ValueError, match=">= or <=, not '>'"):
        Bar(">", 1)


def test_json_has_the_verdicts_and_the_machine(tmp_path):
    path = tmp_path / "out.json"
    emit(Report("decode", FIGURES, {"tok_s": {"pavane": [1.0]}}).as_json(), str(path))
    written = json.loads(path.read_text())
    assert [figure["met"] for figure in written["figures"]] == [False, None, False, True]
    assert written["figures"][0]["bar"] == {"sign": ">=", "limit": 2.5}
    assert written["tok_s"] == {"pavane": [1.0]}
    assert written["machine"]["cores"] >= 1
