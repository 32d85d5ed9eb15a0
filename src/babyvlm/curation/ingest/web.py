"""``curate web``: captioned images of web corpora to a pair store. Invalid and unsafe samples are left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.image_validation import InvalidSampleError, validate_image
from babyvlm.curation.ingest.web_corpora.sources import Source, find_source
from babyvlm.curation.stage import MIN_FRACTION, Artifact, Stage, parts_folder, stage
from babyvlm.curation.store.chunked_writer import Log, write_parts, write_share
from babyvlm.curation.store.pair_store import ORIGINAL_CAPTION, split_of
from babyvlm.errors import UserError, require_at_least, require_fraction
from babyvlm.io.characters import strip_invisible
from babyvlm.io.files import fingerprint_files, require_outside
from babyvlm.text import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babyvlm.curation.ingest.web_corpora.samples import Chunk, Sample

REPORT_COLUMNS = ("key", "reason")
FIELDS = {ORIGINAL_CAPTION: pa.string()}


@stage
def web(
    sources: list[Path],
    out: Path,
    min_fraction: float = MIN_FRACTION,
    expected_count: int = 0,
    image_size: int = 0,
    hold_out: bool = False,
    num_workers: int = 2,
    licensed: bool = False,
    share: str = "",
) -> Stage:
    """Read captioned images from web corpora into a pair store.

    Input: LLaVA's list (`.json`, with its images in `images/` or beside it), WebDataset tars, Parquet (`image`,
    `caption` or `text`), or a CSV (`image`, `caption`) beside its images; or a folder with files of one of these kinds.
    Output: a store of (image, caption) pairs, the input of `curate rewrite`. Captions are split into lower-case tokens,
    like transcripts; the field `original_caption` has them as found.

    Damaged images, missing captions and unsafe paths are left out and listed in `OUT.quarantine.csv`. So are failed
    downloads, if img2dataset left a record of them beside its tars. If the command is interrupted, run it again: it
    resumes after the last completed archive or the last few thousand samples.

    For example:
        python -m babyvlm curate web --sources '[llava/list.json,cc3m/]' --out stores/web --min_fraction 0.8

    Args:
        sources: files or folders. The name of each becomes the source of its pairs.
        out: store to create.
        min_fraction: minimum share of valid samples; failed downloads count as invalid.
        expected_count: number of links in the original lists, over all sources. Use it if there is no record of failed
            downloads beside the archives; missing samples then count as failed downloads.
        image_size: maximum length of the shorter side in pixels; larger images are resized. 0 keeps the original bytes,
            except for images of more than 1 MiB, which are resized to at most 512 pixels.
        hold_out: put 5% of the pairs into validation and 5% into test, to evaluate models on web pairs. By default all
            pairs are for training, as in the paper.
        num_workers: number of processes; each reads one archive or a few thousand samples at a time.
        licensed: mark the store so that its contents never leave this machine.
        share: build only this share of the samples, such as 2/16 for the second of 16 jobs that run at the same time.
            When all shares are complete, run the command without it to assemble the store.
    """
    require_at_least(0, image_size=image_size, expected_count=expected_count)
    require_at_least(1, num_workers=num_workers)
    require_fraction(min_fraction=min_fraction)
    require_outside(out, *sources)
    found = _find_sources(sources)
    hashes = {source.name: fingerprint_files([*source.files, *source.download_records]) for source in found}
    arguments = {
        "command": "web",
        "sources": hashes,
        "min_fraction": min_fraction,
        "image_size": image_size,
        "hold_out": hold_out,
        "licensed": licensed,
        **({"expected_count": expected_count} if expected_count else {}),
    }
    chunks = ((source.name, chunk) for source in found for chunk in (*source.chunks(), *source.failed_downloads()))
    parts = [WebPart(name, chunk, chunk.hash, image_size, hold_out) for name, chunk in chunks]
    funnel = Funnel("web", unit="samples")
    quarantine = out.with_name(f"{out.name}.quarantine.csv")
    artifact = Artifact(
        "store", arguments, funnel, state=parts_folder(out), min_fraction=min_fraction, input_list=quarantine
    )
    if share:
        return write_share(out, parts, share, stage="web", num_workers=num_workers, extra_fields=FIELDS)
    folder = yield artifact
    artifact.manifest |= write_parts(
        folder,
        parts,
        funnel=funnel,
        raw={source.name: {"files": [file.name for file in source.files], "key": source.key} for source in found},
        licensed=licensed,
        num_workers=num_workers,
        input_list=quarantine,
        heading=REPORT_COLUMNS,
        extra_fields=FIELDS,
    )
    if expected_count and expected_count < funnel.seen:
        raise UserError(
            f"--expected_count {expected_count}: the sources contain {funnel.seen} samples. Pass the number of"
            " links that the download was asked for"
        )
    if expected_count > funnel.seen:
        funnel.drop("download failed: expected, but not in the sources", expected_count - funnel.seen)
    return f"{artifact.manifest['rows']:,} pairs. See {quarantine} for the samples that were left out"


@dataclass(frozen=True)
class WebPart:
    """A chunk of a source: valid samples become rows of the store, the others are counted and listed.

    Attributes:
        source: name of the source.
        chunk: some samples of it.
        hash: hash of the chunk's contents, computed once.
        image_size: maximum length of the shorter side in pixels; 0 for no limit.
        hold_out: assign validation and test splits.
    """

    source: str
    chunk: Chunk
    hash: str
    image_size: int
    hold_out: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        return {
            "source": self.source,
            "chunk": self.chunk.name,
            "hash": self.hash,
            "image_size": self.image_size,
            "hold_out": self.hold_out,
        }

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield one row per valid sample."""
        keys: set[str] = set()
        for sample in self.chunk.samples():
            key = self._key(sample.id)
            try:
                if key in keys:
                    raise InvalidSampleError("duplicate id")
                caption, image = validate_sample(sample, self.image_size)
            except InvalidSampleError as error:
                self._leave_out(key, str(error), log)
                continue
            keys.add(key)
            log.funnel.keep()
            yield {
                "key": key,
                "image": image,
                "utterance": normalize(caption),
                "source": self.source,
                "group": key,
                "split": split_of(key) if self.hold_out else "train",
                ORIGINAL_CAPTION: caption,
            }

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that no sample of the chunk could be read."""
        self._leave_out(self._key(self.chunk.name), reason, log, self.chunk.count or 1)

    def _key(self, name: str) -> str:
        return f"{self.source}/{name}".encode("utf-8", "backslashreplace").decode()

    def _leave_out(self, key: str, reason: str, log: Log, count: int = 1) -> None:
        log.funnel.drop(reason, count)
        log.lines.append([key, reason])


def validate_sample(sample: Sample, image_size: int = 0) -> tuple[str, bytes]:
    """Return caption and image of a valid sample.

    Raises:
        InvalidSampleError: it is not valid.
    """
    if sample.problem or sample.image is None:
        raise InvalidSampleError(sample.problem or "image missing")
    caption = " ".join(strip_invisible(sample.caption or "").replace("\0", " ").split())
    if not caption:
        raise InvalidSampleError("no caption")
    if any("\ud800" <= character <= "\udfff" for character in caption):
        raise InvalidSampleError("caption is not valid text")
    return caption, validate_image(sample.image, image_size)


def _find_sources(paths: list[Path]) -> list[Source]:
    if not paths:
        raise UserError("--sources: name at least one source")
    sources = [find_source(path) for path in paths]
    names = [source.name for source in sources]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise UserError(f"--sources: two sources are named {duplicates[0]!r}. Rename one of them")
    return sources
