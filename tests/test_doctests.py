"""The examples in docstrings run as tests, in every module that has some."""

import doctest
import inspect
import re
from importlib import import_module

import pytest

from support import ROOT

SOURCE = ROOT / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if "    >>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, request):
    module = import_module(name)
    for fixture in re.findall(r'getfixture\("(\w+)"\)', inspect.getsource(module)):
        request.getfixturevalue(fixture)  # here, since it may print
    fixtures = {"getfixture": request.getfixturevalue}  # as in pytest's own doctests
    results = doctest.testmod(module, extraglobs=fixtures, raise_on_error=False)
    assert results.attempted
    assert not results.failed
