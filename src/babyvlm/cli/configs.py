"""``babyvlm configs``: the shipped configs, which are part of the package, and those of the user's own packages."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import babyvlm
from babyvlm.allowed import user_allowed
from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write
from babyvlm.io.printing import echo


def shipped_configs() -> Path:
    """Return the folder of the shipped configs: inside the installed package, or ``configs/`` of a checkout."""
    package = Path(babyvlm.__file__).parent
    installed = package / "configs"  # the wheel has it there (`force-include` in pyproject.toml)
    return installed if installed.is_dir() else package.parents[1] / "configs"


def _files() -> dict[str, Path]:
    """Return all configs by their name: the shipped ones, and those in ``configs`` of the packages that are allowed.

    Raises:
        UserError: a package is not installed, or one of its configs has the name of another.
    """
    folders = {"babyvlm": shipped_configs()}
    for name in dict.fromkeys(module.partition(".")[0] for module in user_allowed()):
        found = find_spec(name)
        if found is None:
            raise UserError(f"--allow {name}: no module of this name is installed or in this folder")
        for place in found.submodule_search_locations or []:
            folders[name] = Path(place, "configs")
    files: dict[str, Path] = {}
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.yaml")):
            name = str(file.relative_to(folder))
            if name in files:
                raise UserError(f"{file}: {files[name]} has the same name. Rename the config of {package}")
            files[name] = file
    return files


def show() -> None:
    """List the shipped configs and what each is for. With `--allow`, also those in the folder `configs` of a package.

    For example:
        python -m babyvlm configs list
    """
    files = _files()
    width = max(map(len, files))
    for name, file in files.items():
        lines = takewhile(lambda line: line.startswith("# "), file.read_text().splitlines())
        comment = " ".join(line.removeprefix("# ") for line in lines)
        echo(f"{name:{width}}  {re.split(r'[.](?= [A-Z])', comment)[0]}".rstrip(". "))


def copy(out: Path = Path("configs")) -> None:
    """Copy the shipped configs into a folder, by default `configs`, so that commands can name and change them.

    Files that are already there are kept; those that differ from the shipped ones are listed. With `--allow`, the
    configs in the folder `configs` of a package of your own are copied too.

    For example:
        python -m babyvlm configs copy

    Args:
        out: folder to copy to. Configs name each other by `configs/...`, so that another folder is for comparison.
    """
    files = _files()
    copied, changed = 0, []
    for name, file in files.items():
        if not (out / name).exists():
            with atomic_write(out / name) as copied_file:
                copied_file.write(file.read_text())
            copied += 1
        elif (out / name).read_bytes() != file.read_bytes():
            changed.append(name)
    echo(f"{out}: {copied} configs copied, {len(files) - copied} were already there")
    if changed:
        echo(f"{out}: kept, although they differ from the shipped ones: {', '.join(changed)}")
