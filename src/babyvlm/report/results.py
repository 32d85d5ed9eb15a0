"""Read the test results of a run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from babyvlm.benchmarks.intervals import Credits
from babyvlm.errors import UserError, first_line
from babyvlm.io.limits import FREE_COLUMN_BYTES, load_json
from babyvlm.io.parquet_pages import require_little_compressed
from babyvlm.io.printing import printable_line
from babyvlm.report.columns import BenchmarkColumns, declared_columns
from babyvlm.report.reading import DAMAGE, mapping, read_bytes

SUFFIX = "-test.parquet"
RESULT_COLUMNS = ["item", "category", "control", "measure", "credit"]
# Older results have no groups, images and texts, and captions in the column `said`.
OPTIONAL_COLUMNS = ("group", "images", "texts", "output", "said")
LISTS = ("images", "texts")  # columns of lists of texts
MAX_RESULTS_BYTES, MAX_RESULTS = 256 << 20, 5_000_000
MAX_CREDIT = 1e9  # sums of squares stay finite
MAX_COSINE = 1 + 1e-6  # with rounding
# Facts in the metadata of results that are numbers.
COUNTED_FACTS: dict[str, type[int] | type[float]] = {
    "missing_items": int,
    "items_alike": int,
    "unknown_words": float,
    "prior": float,
}
PRIOR = "prior, no image"  # name of the floor of a prior over the answers
_KEYS = ("item", "measure", "control")


@dataclass(frozen=True, eq=False)
class Scores:
    """The credit of N items by one measure, in the order of the list."""

    items: tuple[str, ...]
    credit_N: Credits

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each item."""
        return {item: place for place, item in enumerate(self.items)}

    def of(self, items: Sequence[str]) -> Credits:
        """Return the credit of some of the items."""
        return self.credit_N if items is self.items else self.credit_N[[self.index[item] for item in items]]


@dataclass(frozen=True, eq=False)
class Results:
    """Test results of a run on one benchmark.

    Attributes:
        columns: the benchmark's columns.
        metadata: facts about the list and the model, see ``benchmarks/results.py``.
        sha256: hash of the file.
        credit: by measure and control.
        category: item -> category; empty if it has none.
        groups: item -> group of items that are not independent, for items that are in one.
        images: item -> images that it shows; empty in results of older versions.
        texts: item -> texts that it compares, in the order of the list; likewise.
        captions: item -> generated caption; empty texts for benchmarks without captions.
    """

    columns: BenchmarkColumns
    metadata: Mapping[str, str]
    sha256: str
    credit: Mapping[tuple[str, str], Scores]
    category: Mapping[str, str]
    groups: Mapping[str, str]
    images: Mapping[str, tuple[str, ...]]
    texts: Mapping[str, tuple[str, ...]]
    captions: Mapping[str, str]

    def floors(self, measure: str) -> dict[str, float]:
        """Return what a measure is without a model: of a constant, of a prior, or of a color histogram, by name.

        Raises:
            UserError: the results' record of it is damaged.
        """
        is_first = measure == self.columns.main[0].measure
        found = {PRIOR: float(self.metadata["prior"])} if is_first and "prior" in self.metadata else {}
        recorded = load_json(self.metadata.get("floors", "{}").encode())
        if not isinstance(recorded, dict):
            raise UserError(f"metadata 'floors' of {self.columns.name} is not an object")
        of_measure = mapping(recorded.get(measure))
        return found | {printable_line(str(name)): float(value) for name, value in of_measure.items()}

    @cached_property
    def cosines(self) -> Cosines | None:
        """The cosines between mean images and words of categories; None if the benchmark records none.

        Raises:
            UserError: the record is damaged.
        """
        if "cosines" not in self.metadata:
            return None
        recorded = mapping(load_json(self.metadata["cosines"].encode()))
        categories, matrix_KK = recorded.get("categories"), np.array(recorded.get("cosines"), dtype=np.float64)
        if not isinstance(categories, list) or not categories or matrix_KK.shape != (2 * len(categories),) * 2:
            raise UserError(f"metadata 'cosines' of {self.columns.name} is not a square matrix for its categories")
        if not (np.abs(matrix_KK) <= MAX_COSINE).all():
            raise UserError(f"metadata 'cosines' of {self.columns.name} has values that are not cosines")
        return Cosines(tuple(map(str, categories)), matrix_KK)


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines between the mean images of C categories, followed by their C words.

    Attributes:
        categories: their names.
        matrix_KK: the cosines, (2C, 2C).
    """

    categories: tuple[str, ...]
    matrix_KK: npt.NDArray[np.float64]

    @cached_property
    def ranks(self) -> dict[str, float]:
        """Rank of each category's word among all words, by their cosines with its mean image; ties share their mean."""
        count = len(self.categories)
        cosine_CC = self.matrix_KK[:count, count:]
        own_C1 = cosine_CC.diagonal()[:, None]
        rank_C = 0.5 + (cosine_CC > own_C1).sum(1) + (cosine_CC == own_C1).sum(1) / 2
        return dict(zip(self.categories, rank_C.tolist(), strict=True))


def read_results(file: Path) -> Results:
    """Return the test results in a file.

    Raises:
        UserError: it is damaged or too large.
    """
    try:
        return _parse_results(file, read_bytes(file, MAX_RESULTS_BYTES))
    except UserError:
        raise
    except DAMAGE as error:
        text = first_line(error)
        raise UserError(f"{file}: cannot be read as results ({text}). Run `python -m babyvlm test` again") from None


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a run's results.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        metadata = pq.read_schema(pa.BufferReader(read_bytes(file, MAX_RESULTS_BYTES))).metadata or {}
    except DAMAGE as error:
        raise UserError(f"{file}: cannot be read as results ({first_line(error)})") from None
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}


def _parse_results(file: Path, content: bytes) -> Results:
    parquet = pq.ParquetFile(pa.BufferReader(content))
    if parquet.metadata.num_rows > MAX_RESULTS:
        raise ValueError(f"more than {MAX_RESULTS:,} rows")
    optional = [name for name in OPTIONAL_COLUMNS if name in parquet.schema_arrow.names]
    names = [*RESULT_COLUMNS, *optional]
    parts = range(parquet.metadata.num_row_groups)
    require_little_compressed(io.BytesIO(content), parquet.metadata, parts, names, FREE_COLUMN_BYTES)
    # A text that repeats stays one text until the total length is checked.
    read_once = [name for name in names if name in parquet.schema_arrow.names and name not in ("credit", *LISTS)]
    parquet = pq.ParquetFile(pa.BufferReader(content), read_dictionary=read_once)
    table = parquet.read(columns=names).select(names)
    if sum(map(_text_length, table.columns)) > MAX_RESULTS_BYTES:
        raise ValueError(f"over {MAX_RESULTS_BYTES >> 20} MiB of text")
    if not len(table):
        raise UserError(f"{file}: contains no item. Run `python -m babyvlm test` again")
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    for fact, parse in COUNTED_FACTS.items():
        parse(metadata.get(fact, "0"))
    types_of = {"credit": pa.float64(), "images": pa.list_(pa.string()), "texts": pa.list_(pa.string())}
    types = [types_of.get(one, pa.string()) for one in names]
    table = table.cast(pa.schema(list(zip(names, types, strict=True))))
    if missing := [name for name in RESULT_COLUMNS if name != "category" and table[name].null_count]:
        raise ValueError(f"column {missing[0]} has empty values")
    credit_R = table["credit"].to_numpy()
    wrong_R = np.flatnonzero(~(np.abs(credit_R) <= MAX_CREDIT))
    if len(wrong_R):
        raise ValueError(f"credit {credit_R[wrong_R[0]]} of item {table['item'][wrong_R[0]]}")
    (items, item_R), (measures, measure_R), (controls, control_R) = map(_codes, map(table.column, _KEYS))
    credit: dict[tuple[str, str], Scores] = {}
    known: dict[bytes, tuple[str, ...]] = {}  # one tuple for equal lists of items
    part_R = measure_R * len(controls) + control_R
    for part in dict.fromkeys(part_R.tolist()):
        rows_N = np.flatnonzero(part_R == part)
        last = dict(zip(item_R[rows_N].tolist(), rows_N.tolist(), strict=True))  # of an item that occurs twice
        listed = known.setdefault(np.array([*last]).tobytes(), tuple(items[code] for code in last))
        key = measures[part // len(controls)], controls[part % len(controls)]
        credit[key] = Scores(listed, credit_R[[*last.values()]])
    first_I = np.unique(item_R, return_index=True)[1]
    facts = table.select([one for one in names if one not in ("credit", "measure")]).take(first_I).to_pylist()
    category = {one["item"]: one["category"] or "" for one in facts}
    groups = {one["item"]: one["group"] for one in facts if one.get("group")}
    images = {one["item"]: tuple(one["images"]) for one in facts if one.get("images")}
    texts = {one["item"]: tuple(one["texts"]) for one in facts if one.get("texts")}
    spoken = next((one for one in ("output", "said") if one in names), None)
    shown_R = np.flatnonzero(np.array(controls)[control_R] == "")
    outputs = table.column(spoken).take(shown_R).to_pylist() if spoken and len(shown_R) else []
    captions = {items[item_R[row]]: output or "" for row, output in zip(shown_R, outputs, strict=False)}
    name = printable_line(file.name.removesuffix(SUFFIX))
    declared = declared_columns(name, metadata, dict.fromkeys(measure for measure, _ in credit), str(file))
    digest = hashlib.sha256(content).hexdigest()
    results = Results(declared, metadata, digest, credit, category, groups, images, texts, captions)
    results.floors("")  # so that damaged records are found here
    _ = results.cosines
    return results


def _codes(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the distinct texts of a column, and the place of each row's text among them."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _text_length(column: pa.ChunkedArray) -> int:
    """Return the bytes of all texts of a column, each as often as it occurs; 0 for other columns."""
    total = 0
    for chunk in column.chunks:
        if pa.types.is_list(chunk.type):
            total += pc.sum(pc.binary_length(chunk.flatten())).as_py() or 0
        elif pa.types.is_dictionary(chunk.type):  # of texts or bytes; Arrow reads nothing else as one
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
            total += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    return total
