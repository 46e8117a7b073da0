"""The stand-in for FlashInfer takes what the real classes take: their source is read, not imported."""

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.flashinfer_standin import PagedStandIn, RaggedStandIn

SPEC = find_spec("flashinfer")
Parameter = tuple[str, str, object]
NONE = object()


def of_source(function: ast.FunctionDef) -> list[Parameter]:
    """(name, kind, default) of each parameter."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [NONE] * (len(plain) - len(given.defaults)) + [ast.literal_eval(d) for d in given.defaults]
    out: list[Parameter] = [
        (a.arg, "POSITIONAL_OR_KEYWORD", default) for a, default in zip(plain, defaults, strict=True)
    ]
    if given.vararg is not None:
        out.append((given.vararg.arg, "VAR_POSITIONAL", NONE))
    for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        out.append((a.arg, "KEYWORD_ONLY", NONE if default is None else ast.literal_eval(default)))
    return out


def of_standin(function: Any) -> list[Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind.name, NONE if p.default is inspect.Parameter.empty else p.default) for p in parameters]


@pytest.mark.skipif(SPEC is None, reason="needs the files of flashinfer-python: pip install --no-deps it")
@pytest.mark.parametrize(
    ("name", "standin"),
    [("BatchPrefillWithPagedKVCacheWrapper", PagedStandIn), ("BatchPrefillWithRaggedKVCacheWrapper", RaggedStandIn)],
)
def test_the_standin_has_the_parameters_of_the_real_class(name: str, standin: type) -> None:
    assert SPEC is not None
    assert SPEC.origin is not None
    tree = ast.parse((Path(SPEC.origin).parent / "prefill.py").read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}  # the last of overloads
    used = ["__init__", "plan", "run", *(["reset_workspace_buffer"] if standin is PagedStandIn else [])]
    for method in used:
        assert of_standin(getattr(standin, method)) == of_source(methods[method]), method
