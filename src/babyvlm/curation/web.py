"""Generic captioned images -> a pair store; what is broken or unsafe is set aside and listed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from babyvlm import artefact
from babyvlm.contracts import UserError
from babyvlm.curation.files import fingerprint_files, write_csv
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.sound_images import UnsoundError, sound_image
from babyvlm.curation.store import split_of, write_store
from babyvlm.curation.web_readers import Sample, Source, find_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass
class _Sieve:
    """Sound samples go on as rows of a store; the others are counted and listed."""

    image_size: int
    hold_out: bool
    funnel: Funnel
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def rows(self, sources: Iterable[Source]) -> Iterator[dict[str, Any]]:
        for source in sources:
            for file in source.files:
                for sample in source.read(file):
                    yield from self._row(source.name, sample)

    def _row(self, source: str, sample: Sample) -> Iterator[dict[str, Any]]:
        key = f"{source}/{sample.id}".encode("utf-8", "backslashreplace").decode()
        try:
            caption, image = self._check(key, sample)
        except UnsoundError as error:
            self.funnel.drop(str(error))
            self.quarantine.append((key, str(error)))
            return
        self.keys.add(key)
        self.funnel.keep()
        split = split_of(key) if self.hold_out else "train"
        yield {"key": key, "image": image, "utterance": caption, "source": source, "group": key, "split": split}

    def _check(self, key: str, sample: Sample) -> tuple[str, bytes]:
        if sample.problem or sample.image is None:
            raise UnsoundError(sample.problem or "image missing")
        caption = " ".join((sample.caption or "").replace("\0", " ").split())
        if not caption:
            raise UnsoundError("no caption")
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise UnsoundError("caption not readable")
        if key in self.keys:
            raise UnsoundError("id came before")
        return caption, sound_image(sample.image, self.image_size)


def web(
    sources: list[Path],
    out: Path,
    min_fraction: float = 0.5,
    image_size: int = 0,
    hold_out: bool = False,
    licensed: bool = False,
) -> None:
    """Read captioned images into a pair store.

    Takes LLaVA's list (`.json`, with its images in `images/` or beside it), WebDataset tars, Parquet (`image`,
    `caption` or `text`), and a CSV (`image`, `caption`) beside its images. Broken images, missing captions and
    unsafe paths are left out and listed in `OUT.quarantine.csv`.

    Args:
        sources: files or folders; each gives its name to its pairs.
        out: store to make.
        min_fraction: least share of the samples that must be sound.
        image_size: make images smaller until the shorter side has this many pixels; 0 keeps the bytes as they are.
        hold_out: put 5 % each into validation and test, where a model is judged on web pairs too; else all of them are
            for training, as in the paper.
        licensed: the images may never leave this machine.
    """
    if image_size < 0 or not 0 <= min_fraction <= 1:
        raise UserError(f"--image_size {image_size} must be 0 or more, --min_fraction {min_fraction} within 0 and 1")
    found = [find_source(path) for path in sources]
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        wrong = f"two sources are named {twice[0]!r}; rename one of them" if twice else "name at least one source"
        raise UserError(f"--sources: {wrong}")
    arguments = {
        "command": "web", "sources": {source.name: fingerprint_files(source.files) for source in found},
        "min_fraction": min_fraction, "image_size": image_size, "hold_out": hold_out, "licensed": licensed,
    }  # fmt: skip
    if artefact.made_already(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    sieve = _Sieve(image_size, hold_out, Funnel("web", unit="samples"))
    rows = track(_until_enough(sieve, found, out, min_fraction), "reading", console=Console(stderr=True))
    raw = {one.name: {"files": [file.name for file in one.files], "key": one.key} for one in found}
    store = write_store(out, rows, arguments=arguments, funnel=sieve.funnel, licensed=licensed, raw=raw)
    print(f"{sieve.funnel}\n{out}: {len(store):,} pairs; what was left out is listed in {_quarantine_path(out)}")


def _until_enough(sieve: _Sieve, sources: list[Source], out: Path, min_fraction: float) -> Iterator[dict[str, Any]]:
    """All rows; then write the list of what was left out, and refuse if that was too much."""
    yield from sieve.rows(sources)
    write_csv(_quarantine_path(out), [("key", "reason"), *sieve.quarantine])
    funnel = sieve.funnel
    if funnel.seen and funnel.kept / funnel.seen < min_fraction:
        reasons = ", ".join(f"{count} {reason}" for reason, count in funnel.dropped.most_common(3))
        raise UserError(
            f"{out}: only {funnel.kept} of {funnel.seen} samples are sound ({reasons}; all in {_quarantine_path(out)});"
            f" mend the sources or lower --min_fraction {min_fraction:g}"
        )


def _quarantine_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.quarantine.csv")
