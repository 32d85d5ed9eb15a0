"""Check the order of the stages by the imports in the source files."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "babyvlm"
FOUNDATION = ["errors", "types", "io", "config", "ranges", "allowed", "text", "__init__"]
STAGES = ["playroom", "curation", "data", "models", "benchmarks", "benchmark_builder", "training", "report"]
STAGES += ["ablations", "adapters", "workflow", "cli", "__main__"]
MODULES = sorted(SOURCE.rglob("*.py"))


def stage_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path):
    """Names of all modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_stages(path):
    # Every command that builds an artifact uses the decorator, which belongs to no stage.
    shared = ("babyvlm.curation.stage", "babyvlm.curation.funnel")
    own = (name.split(".") for name in imported(path) if name.startswith("babyvlm.") and not name.startswith(shared))
    return {parts[1] for parts in own if parts[1] in STAGES}


def test_modules_belong_to_stages():
    assert {stage_of(path) for path in MODULES} <= {*STAGES, *FOUNDATION}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_imports_earlier_stages_only(path):
    stage = stage_of(path)
    allowed = set() if stage in FOUNDATION else set(STAGES[: STAGES.index(stage) + 1])
    if stage == "__init__":
        allowed = {"curation", "data", "models", "benchmarks"}  # the public names, imported on first use
    if stage == "benchmarks":
        allowed -= {"models"}  # it sees the two protocols
    assert imported_stages(path) <= allowed


@pytest.mark.parametrize("folder", ["report", "playroom", "ablations", "workflow"])
def test_folder_imports_no_torch(folder):
    for path in (SOURCE / folder).rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "lightning", "torchvision"}, path


def test_commands_that_train_nothing_load_no_torch():
    code = (
        "import sys; from babyvlm.__main__ import main\n"
        "try: main(['curate', 'match', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'lightning', 'open_clip', 'transformers', 'numba', 'datasets')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["playroom", "--help"],
        ["curate", "--help"],
        ["curate", "embed", "--help"],
        ["benchmark", "build", "--help"],
        ["report", "--help"],
    ],
)
def test_help_takes_less_than_two_cpu_seconds(args):
    # CPU seconds, since a loaded machine stretches the clock more than the work; and again if that was not enough.
    code = (
        "import resource, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-m', 'babyvlm', *{args!r}], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", code]
    used = (float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5))
    assert any(seconds < 2 for seconds in used)


def test_make_targets_are_listed():
    makefile = (ROOT / "Makefile").read_text()
    out = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    targets = set(re.search(r"\.PHONY: (.*)", makefile)[1].split()) - {"help"}
    assert all(re.search(rf"^{target} ", out, re.M) for target in targets)


def test_test_modules_have_different_names():
    """pytest imports them by name, from folders that are not packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
