"""What ``import babyvlm`` offers, in fresh processes where the order of imports matters."""

import subprocess
import sys

import pytest

import babyvlm


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_neither_torch_nor_transformers():
    code = "import sys, babyvlm; print([m for m in ('torch', 'transformers', 'lightning') if m in sys.modules])"
    assert run(code) == "[]"


def test_import_leaves_the_import_system_alone():
    assert run("import sys; before = list(sys.meta_path); import babyvlm; print(sys.meta_path == before)") == "True"


@pytest.mark.parametrize("name", babyvlm.__all__)
def test_public_name_is_available(name):
    assert name in dir(babyvlm)
    assert getattr(babyvlm, name).__name__ == name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute lood"):
        _ = babyvlm.lood
