"""What a file of tenants may say, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pavane.scheduler.tenants import TenantLimits
from pavane.server.config import ConfigError
from pavane.server.tenants_file import read_tenants


def test_a_file_of_tenants(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    limits = {"weight": 2, "max_running": 8, "max_unfinished": 0, "max_stored_tokens": 10**5, "max_workflows": 50}
    path.write_text(json.dumps({"default": {"max_workflows": 7}, "tenants": {"team-a": limits, "": {"weight": 0.5}}}))
    tenants = read_tenants(path)
    assert tenants.get("team-a").limits == TenantLimits(2, 8, 0, 10**5, 50)
    assert tenants.get("").limits == TenantLimits(weight=0.5)
    assert tenants.get("else").limits == TenantLimits(max_workflows=7)
    path.write_text("{}")
    assert read_tenants(path).get("team-a").limits == TenantLimits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tenants":\n {"a" 1}}', ":2:7: Expecting ':' delimiter"),
        ("[]", r"the file is \[\]; use an object"),
        ('{"tenant": {}}', "the file has no field 'tenant'; it knows default, tenants"),
        ('{"tenants": []}', r"tenants is \[\]; use an object"),
        ('{"tenants": {"a": 5}}', "tenants.a is 5; use an object"),
        ('{"tenants": {"a": {"wieght": 5}}}', "tenants.a has no field 'wieght'; it knows weight, max_running, "),
        ('{"tenants": {"a b": {}}}', "tenants.'a b' is no namespace"),
        ('{"tenants": {"a": {}, "a": {}}}', "a is there twice"),
        ('{"default": {"weight": "2"}}', 'default.weight is "2"; use a number'),
        ('{"default": {"weight": true}}', "default.weight is true; use a number"),
        ('{"default": {"weight": 0}}', "default.weight is 0; use a number from 0.000001"),
        ('{"default": {"weight": -1}}', "default.weight is -1; use a number from 0.000001"),
        ('{"default": {"weight": NaN}}', "NaN is no number"),
        ('{"default": {"weight": 1e999}}', "default.weight is inf; use a number from 0.000001"),
        ('{"default": {"max_running": 0}}', "default.max_running is 0; use 1 or more, or leave it out"),
        ('{"default": {"max_unfinished": -1}}', "default.max_unfinished is -1; use 0 or more"),
        ('{"default": {"max_workflows": 2.5}}', "default.max_workflows is 2.5; use a whole number"),
        ('{"default": {"max_stored_tokens": null}}', "default.max_stored_tokens is null; use a whole number"),
        ("[" * 100_000, "nested too deep"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "tenants.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_tenants(path)
    assert f"--tenants {path}" in str(caught.value)
