"""Generic captioned images -> a pair store; what is broken or unsafe is set aside and listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.image_validation import UnsoundError, sound_image
from babyvlm.curation.ingest.web_corpora.readers import Source, find_source
from babyvlm.curation.store.chunked_writer import Log, store_from_parts
from babyvlm.curation.store.pair_store import split_of
from babyvlm.errors import UserError
from babyvlm.io.artifacts import one_at_a_time
from babyvlm.io.files import fingerprint_files, require_outside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babyvlm.curation.ingest.web_corpora.samples import Chunk, Sample

HEADING = ("key", "reason")


@one_at_a_time
def web(
    sources: list[Path],
    out: Path,
    min_fraction: float = 0.5,
    expected_count: int = 0,
    image_size: int = 0,
    hold_out: bool = False,
    num_workers: int = 2,
    licensed: bool = False,
) -> None:
    """Read captioned images from the web into a pair store.

    In goes LLaVA's list (`.json`, with its images in `images/` or beside it), WebDataset tars, Parquet (`image`,
    `caption` or `text`), or a CSV (`image`, `caption`) beside its images; a folder stands for what it holds of one of
    these kinds. Out comes a store of (image, caption) pairs, to be rewritten by `curate rewrite`.

    Broken images, missing captions and unsafe paths are left out and listed in `OUT.quarantine.csv`. So are links that
    a download lost, where what img2dataset writes beside its tars tells of them. A call that was killed goes on: what
    is read already (archives, and some thousand samples of the others) is not read again.

    For example:
        python -m babyvlm curate web --sources '[llava/list.json,cc3m/]' --out stores/web --min_fraction 0.8

    Args:
        sources: files or folders; each gives its name to its pairs.
        out: store to make.
        min_fraction: least share of the samples, lost links included, that must be sound.
        expected_count: number of links that the download was asked for, over all sources. Use it if the archives have
            no record of failed downloads beside them; samples that are not there count as lost links.
        image_size: make images smaller until the shorter side has this many pixels; 0 keeps the bytes as they are,
            but for images of over 1 MiB, of which the shorter side is made 512 pixels at most.
        hold_out: put 5 % each into validation and test, where a model is judged on web pairs too; else all of them are
            for training, as in the paper.
        num_workers: processes, each at one archive or some thousand samples.
        licensed: the images may never leave this machine.
    """
    if min(image_size, expected_count) < 0 or not 0 <= min_fraction <= 1 or num_workers < 1:
        raise UserError(
            f"--image_size {image_size} and --expected_count {expected_count} must be 0 or more, --min_fraction"
            f" {min_fraction} within 0 and 1, --num_workers {num_workers} at least 1"
        )
    require_outside(out, *sources)
    found = _find_sources(sources)
    prints = {source.name: fingerprint_files([*source.files, *source.sidecars]) for source in found}
    arguments = {
        "command": "web",
        "sources": prints,
        "min_fraction": min_fraction,
        "image_size": image_size,
        "hold_out": hold_out,
        "licensed": licensed,
        **({"expected_count": expected_count} if expected_count else {}),
    }
    chunks = ((source.name, chunk) for source in found for chunk in (*source.chunks(), *source.lost()))
    parts = [WebPart(name, chunk, chunk.hash, image_size, hold_out) for name, chunk in chunks]
    funnel = Funnel("web", unit="samples")
    quarantine = out.with_name(f"{out.name}.quarantine.csv")

    def check() -> None:
        _count_unseen(funnel, expected_count)
        if funnel.seen and funnel.kept / funnel.seen < min_fraction:
            reasons = ", ".join(f"{count} {reason}" for reason, count in funnel.dropped.most_common(3))
            raise UserError(
                f"{out}: only {funnel.kept} of {funnel.seen} samples are sound ({reasons}; all in {quarantine});"
                f" mend the sources or lower --min_fraction {min_fraction:g}"
            )

    store = store_from_parts(
        out,
        parts,
        funnel,
        HEADING,
        listed=quarantine,
        check=check,
        arguments=arguments,
        licensed=licensed,
        raw={one.name: {"files": [file.name for file in one.files], "key": one.key} for one in found},
        workers=num_workers,
    )
    if store:
        print(f"{funnel}\n{out}: {len(store):,} pairs; what was left out is listed in {quarantine}")


def _count_unseen(funnel: Funnel, expected_count: int) -> None:
    """Count what was listed and has not been seen as lost."""
    if expected_count and expected_count < funnel.seen:
        raise UserError(
            f"--expected_count {expected_count}: the sources hold {funnel.seen} samples; say how many their lists named"
        )
    if expected_count > funnel.seen:
        funnel.drop("link lost: listed, but not in the sources", expected_count - funnel.seen)


def _find_sources(paths: list[Path]) -> list[Source]:
    found = [find_source(path) for path in paths]
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        wrong = f"two sources are named {twice[0]!r}; rename one of them" if twice else "name at least one source"
        raise UserError(f"--sources: {wrong}")
    return found


@dataclass(frozen=True)
class WebPart:
    """A chunk of a source: sound samples become rows of the store, the others are counted and listed."""

    source: str
    chunk: Chunk
    hash: str
    image_size: int
    hold_out: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """All that the rows are a function of."""
        return {
            "source": self.source,
            "chunk": self.chunk.name,
            "hash": self.hash,
            "image_size": self.image_size,
            "hold_out": self.hold_out,
        }

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """A row a sound sample."""
        keys: set[str] = set()
        for sample in self.chunk.samples():
            key = self._key(sample.id)
            try:
                if key in keys:
                    raise UnsoundError("id came before")
                caption, image = self._check(sample)
            except UnsoundError as error:
                self._leave_out(key, str(error), log)
                continue
            keys.add(key)
            log.funnel.keep()
            split = split_of(key) if self.hold_out else "train"
            yield {
                "key": key,
                "image": image,
                "utterance": caption,
                "source": self.source,
                "group": key,
                "split": split,
            }

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that the chunk gave nothing."""
        self._leave_out(self._key(self.chunk.name), reason, log, self.chunk.count or 1)

    def _key(self, name: str) -> str:
        return f"{self.source}/{name}".encode("utf-8", "backslashreplace").decode()

    def _leave_out(self, key: str, reason: str, log: Log, count: int = 1) -> None:
        log.funnel.drop(reason, count)
        log.lines.append([key, reason])

    def _check(self, sample: Sample) -> tuple[str, bytes]:
        if sample.problem or sample.image is None:
            raise UnsoundError(sample.problem or "image missing")
        caption = " ".join((sample.caption or "").replace("\0", " ").split())
        if not caption:
            raise UnsoundError("no caption")
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise UnsoundError("caption not readable")
        return caption, sound_image(sample.image, self.image_size)
