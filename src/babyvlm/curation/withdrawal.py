"""``store remove``: withdraw a video or a child from all stores, embeddings and caches that contain something of it."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.funnel import WITHDRAWN, Funnel
from babyvlm.curation.stage import parts_folder
from babyvlm.curation.store.pair_store import PairStore, write_pairs
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

# While an artifact is replaced: the new one, complete, and the old one, until the new one has its place.
NEW, OLD = ".withdrawal", ".withdrawn"
# Entries of a manifest: fingerprints of the artifacts in whose place it is, and names of what was withdrawn from it.
REPLACES, SOURCES = "replaces", "withdrawn"


def remove(source: str, folders: list[Path], apply: bool = False) -> None:
    """Withdraw a video or a child: list everything that contains something of it, and rebuild what can be rebuilt.

    Searches folders for stores, embeddings, feature caches, vocabularies, benchmarks and runs. Without `--apply true`
    it only lists them. With it, stores and embeddings are written again without the pairs of the source, and all that
    was built from them refers to the new ones; caches are deleted, since training computes them again. Everything else,
    such as trained models, is listed for you to delete or build again. Raw files are never touched: delete them first,
    or the next `curate frames` reads them again.

    If the command is interrupted, run it again: each folder is replaced completely or not at all.

    For example:
        python -m babyvlm store remove --source S_20140420_1803_01 --folders '[data,lightning_logs]'

    Args:
        source: name of a video without its suffix, or of a child: a folder of its videos, or the beginning of their
            names up to a `_`, such as `S` in SAYCam. Also a web source, or a part of it up to a `/`.
        folders: folders to search, including subfolders.
        apply: change the files instead of only listing them.
    """
    if not source.strip("_/ "):
        raise UserError("--source: pass the name of a video or of a child")
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing or not folders:
        raise UserError(f"--folders: {missing[0] if missing else 'none'}: no such folder")
    manifests = sorted({path.resolve(): path for folder in folders for path in _manifests(folder)}.items())
    if apply:
        _finish_interrupted([path for _, path in manifests])
        manifests = sorted({path.resolve(): path for folder in folders for path in _manifests(folder)}.items())
    found = _Found.among([path for _, path in manifests])
    plan = _plan(source, found)
    if not plan:
        raise UserError(f"--source {source}: nothing in {', '.join(map(str, folders))} contains this video or child")
    _print_plan(plan)
    raw = sorted({name for artifact in found.artifacts for name in _raw_files(artifact.manifest, source)})
    echo(f"raw files, not touched: the videos of {source}" + (f", and {', '.join(raw)}" if raw else ""))
    echo("not found by this command: exported models, and copies elsewhere")
    if not apply:
        echo("Nothing was changed. Pass --apply true to rebuild the stores and embeddings and delete the caches.")
        return
    fingerprints = dict(found.replaced)
    for step in plan:
        if step.action in (REBUILD, DELETE):
            with artifacts.exclusive(step.artifact.path):
                _apply(step, fingerprints, found, source)
    left = [step for step in plan if step.action not in (REBUILD, DELETE)]
    echo(f"{source}: withdrawn." + (f" {len(left)} of the above are left for you" if left else ""))


REBUILD, DELETE = "rebuild without them", "delete"


@dataclass(frozen=True)
class _Artifact:
    """A folder that was found: its kind (``run`` for a training run) and its manifest."""

    path: Path
    kind: str
    manifest: Mapping[str, Any]
    fingerprint: str

    @property
    def depth(self) -> int:
        """Number of its ancestors, which is larger than that of any of them."""
        return len(self.manifest.get("ancestors", {}))

    @property
    def ancestors(self) -> set[str]:
        """Fingerprints of all that it was built from."""
        if self.kind == "run":
            return {str(store["fingerprint"]) for store in self.manifest.get("stores", {}).values()}
        named = {value for value in _flat(self.manifest["arguments"].values()) if isinstance(value, str)}
        return named | set(self.manifest.get("ancestors", {}))


@dataclass(frozen=True)
class _Step:
    artifact: _Artifact
    num_rows: int  # of the source
    action: str
    kept_N: NDArray[np.bool_] | None = None


@dataclass
class _Found:
    artifacts: list[_Artifact] = field(default_factory=list)  # inputs before what was built from them
    replaced: dict[str, str] = field(default_factory=dict)  # old to present fingerprint, of an earlier withdrawal

    @classmethod
    def among(cls, manifests: Sequence[Path]) -> _Found:
        found = cls()
        for path in manifests:
            if path.parent.name.endswith((NEW, OLD)):
                continue
            manifest = _read(path)
            is_run = path.name == "provenance.json"
            if not is_run and (manifest.get("kind") != path.stem or not isinstance(manifest.get("arguments"), dict)):
                continue
            print_ = "" if is_run else artifacts.sha256_file(path)
            found.artifacts.append(_Artifact(path.parent, "run" if is_run else path.stem, manifest, print_))
            found.replaced |= dict.fromkeys(manifest.get(REPLACES, []), print_)
        found.artifacts.sort(key=lambda one: (one.kind not in ("store", "embeddings"), one.depth, one.path))
        return found


def _manifests(folder: Path) -> Iterator[Path]:
    """Yield the JSON files that may be manifests; unfinished folders are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith((".partial", ".parts"))]
        yield from (Path(parent, name) for name in names if name.endswith(".json") and name != "keys.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = load_json(read_bounded(path, MAX_JSON_BYTES))
    except (OSError, ValueError):  # a file of the user
        return {}
    return value if isinstance(value, dict) else {}


def _flat(values: Any) -> Iterator[Any]:  # noqa: ANN401 - values of JSON
    for value in values:
        yield from value if isinstance(value, list) else [value]


def belongs(source: str, key: str, file: str = "") -> bool:
    """Tell whether a pair comes from a video, a child, or a web source.

    >>> [belongs("S", key) for key in ("S_2014_01_082_00", "day/S_2014_01_082_00", "SA_2014_01_082_00")]
    [True, True, False]

    Args:
        source: see ``remove``.
        key: key of the pair.
        file: path of its video.
    """
    source, key, file = (unicodedata.normalize("NFC", text) for text in (source, key, file))  # macOS decomposes accents
    name = PurePosixPath(key).name
    is_named = name == source or name.startswith(f"{source}_") or f"{key}/".startswith(f"{source}/")
    return is_named or source in PurePosixPath(file).parts[:-1] or PurePosixPath(file).stem == source


def _plan(source: str, found: _Found) -> list[_Step]:
    steps = []
    # Fingerprints of artifacts that contain something of the source, or did before an earlier call.
    stale = {
        old
        for one in found.artifacts
        if source in one.manifest.get(SOURCES, [])
        for old in one.manifest.get(REPLACES, [])
    }
    for artifact in found.artifacts:
        kept_N = _kept(source, artifact)
        count = 0 if kept_N is None else int((~kept_N).sum())
        is_descendant = not stale.isdisjoint(artifact.ancestors)
        if not count and not is_descendant:
            continue
        if artifact.kind in ("store", "embeddings"):
            steps.append(_Step(artifact, count, REBUILD if kept_N is None or kept_N.any() else DELETE, kept_N))
        elif artifact.kind == "features":
            steps.append(_Step(artifact, 0, DELETE))
        elif artifact.kind == "run":
            steps.append(_Step(artifact, 0, "trained on it: delete it and train again"))
        else:
            command = artifact.manifest["arguments"].get("command", artifact.kind)
            steps.append(_Step(artifact, 0, f"built from it: delete it and run {command!r} again"))
        stale.add(artifact.fingerprint)
    return steps


def _kept(source: str, artifact: _Artifact) -> NDArray[np.bool_] | None:
    """Return (N,) which pairs of a store or of embeddings do not come from the source."""
    if artifact.kind == "embeddings":
        return np.array([not belongs(source, key) for key in Embeddings(artifact.path).keys], bool)
    if artifact.kind != "store":
        return None
    store = PairStore(artifact.path)
    names = [name for name in ("key", "file", "match_key") if name in store.manifest["columns"]]
    return np.array(
        [
            # A matched web pair was chosen for a pair of the source.
            not belongs(source, row["key"], row.get("file") or "") and not belongs(source, row.get("match_key") or "")
            for row in store.columns(*names).to_pylist()
        ],
        bool,
    )


def _print_plan(plan: Sequence[_Step]) -> None:
    for step in plan:
        kind, action = step.artifact.kind, step.action
        if step.num_rows:
            action = f"{step.num_rows:,} of {step.artifact.manifest.get('rows', 0):,} pairs, {action}"
        elif action == REBUILD:
            action = "built from the above, refer to the new inputs"
        echo(f"{step.artifact.path} ({kind}): {action}")


def _raw_files(manifest: Mapping[str, Any], source: str) -> list[str]:
    raw = manifest.get("raw", {}).values()
    return [name for entry in raw for name in entry.get("files", []) if belongs(source, PurePosixPath(name).stem)]


def _apply(step: _Step, fingerprints: dict[str, str], found: _Found, source: str) -> None:
    path, kind = step.artifact.path, step.artifact.kind
    for leftover in (parts_folder(path), path.with_name(f"{path.name}.partial")):  # of interrupted commands
        if artifacts.is_marked(leftover):
            artifacts.remove_marked(leftover)
    if step.action == DELETE:
        shutil.rmtree(path)
        echo(f"{path}: deleted")
        return
    manifest = _new_manifest(step.artifact, fingerprints, found, source)
    write = partial(_write_store, path, manifest) if kind == "store" else partial(_write_embeddings, path, manifest)
    new = path.with_name(path.name + NEW)
    finished = new.with_name(f"{new.name}.partial")  # by a call that was killed just before it was renamed
    if _read(finished / f"{kind}.json").get(REPLACES):
        shutil.rmtree(finished)
    with artifacts.create(new, kind, manifest) as folder:
        write(folder, step.kept_N)
    fingerprints |= dict.fromkeys(manifest[REPLACES], artifacts.fingerprint(new, kind))
    _swap(path)
    echo(f"{path}: {step.num_rows:,} pairs removed")


def _new_manifest(artifact: _Artifact, fingerprints: Mapping[str, str], found: _Found, source: str) -> dict[str, Any]:
    """Return the manifest of an artifact whose inputs have new fingerprints."""

    def renewed(value: Any) -> Any:  # noqa: ANN401 - a value of JSON
        if isinstance(value, list):
            return [renewed(one) for one in value]
        return fingerprints.get(value, value) if isinstance(value, str) else value

    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("kind", "code_version")}
    manifest["arguments"] = {name: renewed(value) for name, value in manifest["arguments"].items()}
    present = {one.fingerprint: one for one in _Found.among(_manifest_files(found)).artifacts}
    ancestors: artifacts.Manifest = {}
    for old, ancestor in manifest.get("ancestors", {}).items():
        new = present.get(fingerprints.get(old, ""))
        ancestors |= artifacts.lineage(new.path, new.kind) if new else {old: ancestor}
    manifest["ancestors"] = ancestors
    for entry in manifest.get("raw", {}).values():
        entry["files"] = [name for name in entry["files"] if not belongs(source, PurePosixPath(name).stem)]
    manifest[REPLACES] = [*manifest.get(REPLACES, []), artifact.fingerprint]
    manifest[SOURCES] = sorted({*manifest.get(SOURCES, []), source})
    return manifest


def _manifest_files(found: _Found) -> list[Path]:
    paths = [one.path / f"{one.kind}.json" for one in found.artifacts if one.kind != "run"]
    return [path for path in paths if path.is_file()]


def _write_store(path: Path, manifest: dict[str, Any], folder: Path, kept_N: NDArray[np.bool_]) -> None:
    store = PairStore(path)
    counts = store.manifest.get("funnel")
    funnel = Funnel.from_dict(counts) if counts else Funnel("store")
    unit = "utterances" if funnel.unit == "utterances" else "pairs"
    before = len(set(store.columns("group")["group"].to_pylist())) if unit == "utterances" else len(kept_N)
    rows = (row for _, row in store.take(np.flatnonzero(kept_N)))
    written = write_pairs(
        folder,
        rows,
        funnel=funnel,
        licensed=store.licensed,
        extra_fields=store.extra_fields,
        raw=manifest.get("raw"),
    )
    manifest |= written
    if counts:
        groups = store.columns("group")["group"].to_numpy(zero_copy_only=False)[kept_N]
        removed = before - (len(set(groups)) if unit == "utterances" else int(kept_N.sum()))
        funnel.kept -= removed
        funnel.drop(WITHDRAWN, removed)
        manifest["funnel"] = funnel.as_dict()


def _write_embeddings(path: Path, manifest: dict[str, Any], folder: Path, kept_N: NDArray[np.bool_]) -> None:
    old = Embeddings(path)
    for name in ("image", "text"):
        np.save(folder / f"{name}.npy", np.load(path / f"{name}.npy", mmap_mode="r")[kept_N])
    keys = [key for key, kept in zip(old.keys, kept_N.tolist(), strict=True) if kept]
    (folder / "keys.json").write_text(json.dumps(keys))
    manifest |= {
        "rows": len(keys),
        "sha256": {name: artifacts.sha256_file(folder / f"{name}.npy") for name in ("image", "text")},
    }


def _swap(path: Path) -> None:
    """Put the new artifact in place of the old one, and delete the old one."""
    new, old = path.with_name(path.name + NEW), path.with_name(path.name + OLD)
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def _finish_interrupted(manifests: Sequence[Path]) -> None:
    """Finish or undo replacements that were interrupted, so that every artifact has its name again."""
    for manifest in manifests:
        folder = manifest.parent
        if folder.name.endswith(NEW) and _read(manifest).get(REPLACES):
            path = folder.with_name(folder.name.removesuffix(NEW))
            if path.exists():
                shutil.rmtree(folder)  # it is written again
            else:
                folder.rename(path)
    for manifest in manifests:
        folder = manifest.parent
        if folder.name.endswith(OLD) and folder.is_dir():
            path = folder.with_name(folder.name.removesuffix(OLD))
            if not path.exists():
                folder.rename(path)
            elif artifacts.sha256_file(manifest) in _read(path / manifest.name).get(REPLACES, []):
                shutil.rmtree(folder)
