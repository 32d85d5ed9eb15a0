"""The lists of dependencies agree: ``pyproject.toml``, ``constraints.txt``, and the files with hashes."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = ROOT / "requirements" / "Linux-x86_64-py3-11.txt"
BUILD = ROOT / "requirements" / "Linux-x86_64-py3-11-build.txt"
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
FIX = "Run `make lock` (it needs uv: pip install uv)"


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path):
    return {normal(name): version for name, version in PIN.findall(path.read_text())}


def floors(extras=True):
    lines = [*PROJECT["dependencies"]]
    for name, extra in PROJECT["optional-dependencies"].items():
        lines += extra if extras and name not in ("dev", "int8") else []
    lines += [line for line in PROJECT["optional-dependencies"]["dev"] if not line.startswith("babyvlm")] * extras
    for line in lines:
        name, floor = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([\d.]+)", line).groups()
        yield normal(name), floor


@pytest.mark.parametrize(("name", "floor"), sorted(set(floors())))
def test_lower_bound_is_the_tested_version(name, floor):
    """No older release has been tested; a patch release may be left open."""
    pinned = pins(ROOT / "constraints.txt")
    assert name in pinned, f"pin {name} in constraints.txt"
    assert f"{pinned[name]}.".startswith(f"{floor}."), f"{name}: >={floor}, but {pinned[name]} was tested"


def test_locked_packages_are_the_pinned_ones():
    locked, pinned = pins(LOCKED) | pins(BUILD), pins(ROOT / "constraints.txt")
    assert {name for name, _ in floors()} <= locked.keys(), FIX
    assert {name: locked[name] for name in pinned.keys() & locked.keys()} == {
        name: pinned[name] for name in pinned.keys() & locked.keys()
    }, FIX
    missing = {name for name in pinned.keys() - locked.keys() if name not in ("colorama", "tzdata", "greenlet")}
    assert not missing, FIX


@pytest.mark.parametrize("path", [LOCKED, BUILD], ids=lambda path: path.name)
def test_every_locked_package_has_hashes(path):
    entries = re.split(r"^(?=[A-Za-z0-9])", path.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(path))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.split()[0]
        assert "://" not in entry, "no package comes from an address"


def test_requirements_of_locked_packages_are_locked():
    """``--no-deps`` installs only what is listed, so the list must be closed."""
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        pytest.skip("the list is for Linux and Python 3.11")
    from packaging.requirements import Requirement

    locked = pins(LOCKED)
    for name, version in locked.items():
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            pytest.fail(f"{name} {version} is locked but not installed. Run `make setup`")
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert normal(requirement.name) in locked | pins(BUILD), f"{name} needs {requirement}. {FIX}"


@pytest.mark.parametrize("recipe", ["Dockerfile", "apptainer.def"])
def test_container_copies_files_that_exist_and_installs_all_extras_of_users(recipe):
    text = (ROOT / "containers" / recipe).read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) or re.findall(r"^ +(\S+) /source/", text, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {"pyproject.toml", "src", "configs", *PROJECT["license-files"], PROJECT["readme"]} <= names
    assert all((ROOT / name).exists() for name in names)
    (extras,) = re.findall(r"/source\[([a-z,]+)\]", text)
    assert {*extras.split(",")} == PROJECT["optional-dependencies"].keys() - {"dev", "docs", "int8"}
