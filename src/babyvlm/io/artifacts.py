"""Artifacts: folders that are built under another name, described by a manifest, and renamed when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyvlm import __version__
from babyvlm.errors import UserError
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.locks import exclusive_lock
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Manifest = dict[str, Any]
SCRATCH = "scratch"  # subfolder of an unfinished artifact
MARKER = "babyvlm-unfinished"  # file in every folder that this package created and may delete


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, kind: str) -> Manifest:
    """Read ``<folder>/<kind>.json``.

    Raises:
        UserError: the folder is missing, is not an artifact of this kind, or its manifest cannot be read or was edited.
    """
    path = folder / f"{kind}.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Build it first (python -m babyvlm --help lists the commands)")
    try:
        content = read_bounded(path, MAX_JSON_BYTES)
        manifest = load_json(content)
    except FileNotFoundError:
        raise UserError(f"{folder}: is not a {kind} folder ({path.name} is missing)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}). Delete {folder} and build it again") from None
    seal = _seal(path)
    recorded = read_bounded(seal, MAX_JSON_BYTES).decode(errors="replace") if seal.is_file() else None
    if recorded is not None and recorded.split()[:1] != [hashlib.sha256(content).hexdigest()]:
        raise UserError(f"{path}: was edited after it was written. Restore it, or delete {folder} and build it again")
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: is not a JSON object. Delete {folder} and build it again")
    return manifest


def fingerprint(folder: Path, kind: str) -> str:
    """Return the hash of an artifact: of its manifest, which holds the checksums of its files."""
    read_manifest(folder, kind)
    return sha256_file(folder / f"{kind}.json")


def json_sha256(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its entry ``sha256``, whatever the order of its entries."""
    others = {name: entry for name, entry in value.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def is_licensed(manifest: Mapping[str, Any]) -> bool:
    """Return whether an artifact, or anything that it was built from, must not leave this machine.

    Kinds without a flag of their own, such as vocabularies and embeddings, have that of their ancestors. An artifact of
    which nothing is known is licensed.
    """
    related = [manifest, *manifest.get("ancestors", {}).values()]
    flags = [of["licensed"] for one in related for of in (one, one.get("arguments", {})) if "licensed" in of]
    return not flags or any(flag is not False for flag in flags)


def lineage(folder: Path, kind: str) -> dict[str, Manifest]:
    """Return the manifests of an artifact and of all that it was built from, by fingerprint.

    Each comes after its inputs. Lists of files are left out.
    """
    manifest = read_manifest(folder, kind)
    own = {name: value for name, value in manifest.items() if name not in ("ancestors", "shards", "sha256")}
    found: dict[str, Manifest] = {**manifest.get("ancestors", {}), fingerprint(folder, kind): own}
    order: dict[str, Manifest] = {}

    def visit(name: str) -> None:
        if name not in order:
            for parent in parents(found[name], found):
                visit(parent)
            order[name] = found[name]

    for name in reversed(found):
        visit(name)
    return order


def parents(manifest: Manifest, lineage: Mapping[str, Manifest]) -> list[str]:
    """Return the fingerprints of the inputs of an artifact: those of ``lineage`` that are among its arguments."""
    named: list[Any] = []
    for value in manifest["arguments"].values():
        named += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(value for value in named if isinstance(value, str) and value in lineage))


def is_complete(folder: Path, kind: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether ``folder`` exists and was built from the same arguments.

    Raises:
        UserError: it exists but was built from other arguments or inputs.
    """
    partial = _partial(folder)
    if not folder.exists() and _read(partial / f"{kind}.json").get("arguments") == _as_json(arguments):
        _rename(partial, folder)  # the process was killed just before the rename
    if not folder.exists():
        return False
    wanted, found = _as_json(arguments), read_manifest(folder, kind).get("arguments", {})
    changed = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if changed:
        raise UserError(
            f"{folder}: already exists and was built with different arguments: {', '.join(changed)}. "
            "Delete it or pass a different --out"
        )
    return True


def create_marked(folder: Path) -> None:
    """Create a folder that ``remove_marked`` may delete; nothing happens if it exists and was created here.

    Raises:
        UserError: a folder or file with this name exists and was not created by this package.
    """
    if not folder.exists() and not folder.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
    _require_marked(folder)
    if not (folder / MARKER).exists():
        (folder / MARKER).touch()


def remove_marked(folder: Path) -> None:
    """Delete a folder that ``create_marked`` created, if it exists.

    Raises:
        UserError: it was not created by this package.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    _require_marked(folder)
    with suppress(OSError):  # other ranks may remove and create the same folder at this moment
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARKER:
                path.unlink()
        # The marker last, so that a call that is killed here leaves a folder that can be deleted.
        (folder / MARKER).unlink(missing_ok=True)
        folder.rmdir()


def is_marked(folder: Path) -> bool:
    """Return whether a folder may be deleted: it is empty, or ``create_marked`` created it; a link never."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    # Emptiness is checked before, because another rank may be writing the marker, and after, because it may remove it.
    return not any(folder.iterdir()) or (folder / MARKER).is_file() or not any(folder.iterdir())


def _require_marked(folder: Path) -> None:
    if not is_marked(folder):
        raise UserError(f"{folder}: was not created by this package. Move or delete it, or pass a different --out")


@contextmanager
def create(folder: Path, kind: str, manifest: Manifest, *, keep_partial: bool = False) -> Iterator[Path]:
    """Build the artifact ``folder`` completely or not at all.

    Yields ``<folder>.partial`` to fill. When the block ends without an error, ``manifest`` (to which the block may add
    entries) is written into it as ``<kind>.json``, with its SHA-256 beside it, and the folder is renamed. An artifact
    with a flag ``licensed`` inherits that of its ancestors.

    Args:
        folder: the artifact to build; must not exist.
        kind: names the manifest file.
        manifest: must hold ``arguments``; the version of the code is added.
        keep_partial: keep the files of an interrupted call with the same arguments, so that the block can resume. What
            is needed only to resume belongs in the subfolder ``SCRATCH``, which is removed at the end.

    Raises:
        UserError: ``<folder>.partial`` exists and was not created by this function.
    """
    partial = _partial(folder)
    started_with = partial / SCRATCH / "arguments.json"
    # Another rank may just have created the folder, and writes the arguments before anything else: look in this order.
    begun = any(path.name not in (MARKER, SCRATCH) and path.name[:10] != "arguments." for path in partial.rglob("*"))
    started = _read(started_with)
    if not keep_partial or ((begun or started) and started != _as_json(manifest["arguments"])):
        remove_marked(partial)
    create_marked(partial)
    started_with.parent.mkdir(exist_ok=True)
    _write(started_with, manifest["arguments"])
    try:
        yield partial
    except BaseException:
        if not keep_partial:
            remove_marked(partial)
        raise
    if "licensed" in manifest:
        manifest["licensed"] = is_licensed(manifest)
    ready, path = partial / SCRATCH / f"{kind}.json", partial / f"{kind}.json"
    _write(ready, {"kind": kind, "code_version": __version__, **manifest})
    _seal(path).write_text(f"{sha256_file(ready)}  {path.name}\n")  # as sha256sum writes and checks it
    ready.replace(path)
    _rename(partial, folder)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from building ``folder`` while the block runs; wait while one of them builds it.

    The lock file lies beside the folder and is removed at the end. An existing folder beside which nothing can be
    written is not locked, so that a complete artifact is found there.

    Raises:
        UserError: nothing can be written there, or the file system does not support locks.
    """
    if folder.name in ("", ".."):
        raise UserError(f"{folder}: not a valid output folder. Pass the path of a folder that does not exist yet")
    if folder.exists() and not os.access(folder.parent, os.W_OK):
        yield
        return
    path = folder.with_name(folder.name + ".lock")

    def report_waiting() -> None:
        echo(f"{folder}: another process is building it; waiting", file=sys.stderr)

    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(path, report_waiting))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.filename or path}: {error.strerror})") from None
        yield


def _seal(manifest: Path) -> Path:
    """Return the file with the hash of a manifest; artifacts of version 0.1 have none."""
    return manifest.with_name(f"{manifest.name}.sha256")


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _rename(partial: Path, folder: Path) -> None:
    shutil.rmtree(partial / SCRATCH, ignore_errors=True)
    for leftover in partial.rglob(".*.partial"):  # of `atomic_write` in a process that was killed
        leftover.unlink(missing_ok=True)
    (partial / MARKER).unlink(missing_ok=True)
    partial.rename(folder)


def _as_json(value: Mapping[str, Any]) -> Manifest:
    """Return a value as it is read back from JSON: tuples as lists, paths as text."""
    return dict(json.loads(json.dumps(dict(value), default=str)))


def _read(path: Path) -> Manifest:
    """Read what ``_write`` wrote; empty if the file does not exist, or is another one."""
    try:
        found = load_json(read_bounded(path, MAX_JSON_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")  # ranks may write the same file at the same time
    temporary.write_text(json.dumps(dict(value), indent=2, sort_keys=True, default=str) + "\n")
    temporary.replace(path)
