"""Folders that are whole or absent: made beside, described by a manifest, renamed in."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyvlm import __version__
from babyvlm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Manifest = dict[str, Any]


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, kind: str) -> Manifest:
    """Read ``<folder>/<kind>.json``.

    Raises:
        UserError: the folder is missing, is no artefact of this kind, or its manifest cannot be read.
    """
    path = folder / f"{kind}.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it first (python -m babyvlm --help lists the stages)")
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a {kind} folder ({path.name} is missing)") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove {folder} and make it again") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: holds no JSON object; remove {folder} and make it again")
    return manifest


def fingerprint(folder: Path, kind: str) -> str:
    """Hash of an artefact: of its manifest, which holds the checksums of its files."""
    read_manifest(folder, kind)
    return sha256(folder / f"{kind}.json")


def made_already(folder: Path, kind: str, arguments: Mapping[str, Any]) -> bool:
    """Tell whether ``folder`` is there, whole, and made by the same call.

    Raises:
        UserError: it is there but was made from other arguments or inputs.
    """
    if not folder.exists():
        return False
    manifest = read_manifest(folder, kind)
    wanted = json.loads(json.dumps(dict(arguments), default=str))
    made_by = manifest.get("arguments", {})
    changed = sorted(key for key in wanted.keys() | made_by.keys() if wanted.get(key) != made_by.get(key))
    if changed:
        raise UserError(
            f"{folder}: is there, but was made with other {', '.join(changed)}; remove it or choose another --out"
        )
    return True


@contextmanager
def making(folder: Path, kind: str, manifest: Manifest, *, keep_partial: bool = False) -> Iterator[Path]:
    """Make ``folder`` whole or not at all.

    Yields ``<folder>.partial`` to fill. When the block ends without an error, ``manifest`` (which the block may go on
    filling) is written into it as ``<kind>.json`` and the folder takes its name.

    Args:
        folder: the artefact to make; must not exist.
        kind: names the manifest file.
        manifest: must hold ``arguments``; the code version is added.
        keep_partial: keep what an interrupted call left, for stages that go on where they were.
    """
    partial = folder.with_name(folder.name + ".partial")
    if not keep_partial:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException:
        if not keep_partial:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    text = json.dumps({"kind": kind, "code_version": __version__, **manifest}, indent=2, sort_keys=True, default=str)
    (partial / f"{kind}.json").write_text(text + "\n")
    partial.rename(folder)
