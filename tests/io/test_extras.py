"""Missing optional packages."""

import multiprocessing
import subprocess
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

import pytest

from babyvlm.errors import UserError
from babyvlm.io.extras import EXTRAS, require_extra
from support import ROOT


def test_require_extra_reports_missing_package():
    message = r"^--method llm needs no_such_package\. Install it with: pip install 'openai>=[\d.]+' 'tenacity>="
    with pytest.raises(UserError, match=message), require_extra("llm", "--method llm"):
        import no_such_package.module  # noqa: F401


def test_require_extra_keeps_error_of_own_modules():
    with pytest.raises(ModuleNotFoundError), require_extra("llm", "--method llm"):
        import babyvlm.no_such_module  # noqa: F401


def test_require_extra_quotes_error_without_package_name():
    message = r"^weights int8 cannot be used: it is broken\. Install"
    with pytest.raises(UserError, match=message), require_extra("int8", "weights int8"):
        raise ImportError("it is broken.\nmore")


# Runs a command where no package of any extra can be imported.
BLOCKED = f"""
import sys
for package in {sorted(EXTRAS)}:
    sys.modules[package] = None
from babyvlm.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("args", "package"),
    [
        (["curate", "rewrite", "--store", "s", "--out", "o", "--method", "llm"], "openai"),
        (["benchmark", "build", "review", "--items", "."], "werkzeug"),
    ],
)
def test_command_reports_missing_extra(tmp_path, args, package):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *args], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"Install it with: pip install '{package}>=" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


CORE = ["cli.lightning", "data.pair_mix", "data.text_mix", "models.cvcl", "models.babyllava", "benchmarks.evaluate"]


def _import_core():
    """Import the core again, where no package of any extra can be imported.

    Libraries are imported before: some of them use optional packages of ours where they are installed.
    """
    for name in list(sys.modules):
        if name.partition(".")[0] in {"babyvlm", *EXTRAS}:
            del sys.modules[name]
    sys.modules.update(dict.fromkeys(EXTRAS))
    for name in CORE:
        import_module(f"babyvlm.{name}")
    return {name for name in sys.modules if name.startswith("babyvlm.")}


def test_core_imports_without_extras():
    """In a process that is forked from one with all libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])  # and what `conftest` adds
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        imported = pool.submit(_import_core).result()
    assert imported >= {f"babyvlm.{name}" for name in CORE}


def test_extras_are_those_of_pyproject():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        name = "scikit-learn" if package == "sklearn" else package.replace("_", "-")
        assert any(line.startswith(name) for line in extras[extra]), package
