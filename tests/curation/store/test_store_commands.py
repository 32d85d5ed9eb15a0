import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import FIELDS, write_store
from babyvlm.io.artifacts import sha256_file


def store_command(name, **arguments):
    main(["store", name, *(part for key, value in arguments.items() for part in (f"--{key}", str(value)))])


def fails(capsys, name, **arguments):
    """Return the one-line error of a command that exits with status 2."""
    with pytest.raises(SystemExit) as exit_info:
        store_command(name, **arguments)
    assert exit_info.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def rewrite_shard(folder, change, file="part-00000.parquet"):
    """Change the rows of a shard and update its checksum."""
    table = change(pq.read_table(folder / file))
    pq.write_table(table, folder / file)
    manifest = json.loads((folder / "store.json").read_text())
    shard = next(shard for shard in manifest["shards"] if shard["file"] == file)
    shard["sha256"] = sha256_file(folder / file)
    (folder / "store.json").write_text(json.dumps(manifest))
    (folder / "store.json.sha256").unlink(missing_ok=True)


def with_cell(column, row, value):
    def change(table):
        cells = table[column].to_pylist()
        cells[row] = value
        return table.set_column(table.schema.names.index(column), table.schema.field(column), [cells])

    return change


def bomb():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def test_store_check_accepts_valid_store(tiny_store, capsys):
    store = tiny_store()
    for workers in (1, 2):
        store_command("check", store=store.path, num_workers=workers)
    store_command("check", store=store.path, decode_images="false")
    out = capsys.readouterr().out
    assert out.count("valid. 6 pairs in 1 shards") == 3
    assert out.count("images were not decoded") == 1


DAMAGE = {
    "bit": (lambda f: (f / "part-00000.parquet").open("r+b").write(b"PAR2"), "part-00000.parquet: its checksum"),
    "gone": (lambda f: (f / "part-00000.parquet").unlink(), "part-00000.parquet: is missing"),
    "extra": (lambda f: (f / "part-00007.parquet").write_bytes(b""), "part-00007.parquet: is not part of the store"),
    "image": (lambda f: rewrite_shard(f, with_cell("image", 3, b"no image")), r"row 3 \(key 'k00003'\): image cannot"),
    "bomb": (lambda f: rewrite_shard(f, with_cell("image", 4, bomb())), r"row 4 \(key 'k00004'\): image cannot be dec"),
    "null": (lambda f: rewrite_shard(f, with_cell("utterance", 1, None)), r"row 1 .*: utterance is null"),
    "split": (lambda f: rewrite_shard(f, with_cell("split", 5, "dev")), r"row 5 .*: split is 'dev'"),
    "twice": (lambda f: rewrite_shard(f, with_cell("key", 5, "k00000")), "row 5: key 'k00000' occurs more"),
    "torn": (
        lambda f: rewrite_shard(f, lambda t: with_cell("split", 1, "val")(with_cell("group", 1, "k00000")(t))),
        "row 1 .*: group 'k00000' is in two splits",
    ),
    "rows": (lambda f: rewrite_shard(f, lambda t: t.slice(1)), "has 5 rows, store.json says 6"),
    "column": (lambda f: rewrite_shard(f, lambda t: t.drop_columns("split")), "has the schema"),
    "type": (lambda f: rewrite_shard(f, lambda t: t.set_column(0, "key", pa.array(range(6)))), "schema key int64"),
    "parquet": (lambda f: [(f / "part-00000.parquet").write_bytes(b"PAR1 no"), rewrite_manifest(f)], "cannot be read"),
    "count": (lambda f: rewrite_manifest(f, rows=9), "do not add up"),
    "columns": (lambda f: rewrite_manifest(f, columns=["key"]), "lacks the columns group, image"),
}


def rewrite_manifest(folder, **changes):
    manifest = json.loads((folder / "store.json").read_text()) | changes
    manifest["shards"][0]["sha256"] = sha256_file(folder / "part-00000.parquet")
    (folder / "store.json").write_text(json.dumps(manifest))
    (folder / "store.json.sha256").unlink(missing_ok=True)


@pytest.mark.parametrize("name", DAMAGE)
def test_store_check_names_first_invalid_shard_and_row(tiny_store, tmp_path, capsys, name):
    damage, say = DAMAGE[name]
    damage(tiny_store(path=tmp_path / "store").path)
    assert re.search(say, fails(capsys, "check", store=tmp_path / "store", num_workers=1))


def test_store_check_ends_progress_bar_before_error(tiny_store, tmp_path, capsys):
    rewrite_shard(tiny_store(path=tmp_path / "store").path, with_cell("split", 5, "dev"))
    with pytest.raises(SystemExit):
        store_command("check", store=tmp_path / "store", num_workers=1)
    told = capsys.readouterr().err
    assert -1 < told.find("checking") < told.find("error: ")


def test_store_check_finds_conflicts_between_shards(tmp_path, capsys, draw_jpeg):
    row = {"image": draw_jpeg(0), "utterance": "u", "source": "s"}
    rows = [row | {"key": f"k{n:05}", "group": f"g{n}", "split": "train"} for n in range(4100)]
    write_store(tmp_path / "store", rows, arguments={}, funnel=Funnel("x"), licensed=False)
    changes = [with_cell("key", 2, "k00007"), with_cell("group", 3, "g8")]
    for change, say in zip(
        changes, ("row 2: key 'k00007' occurs more than once", "'g8' is in two splits"), strict=True
    ):
        before = (tmp_path / "store/part-00001.parquet").read_bytes()
        change_both = (lambda t, c=change: with_cell("split", 3, "val")(c(t))) if "splits" in say else change
        rewrite_shard(tmp_path / "store", change_both, "part-00001.parquet")
        line = fails(capsys, "check", store=tmp_path / "store", decode_images="false")
        assert "part-00001.parquet" in line
        assert say in line
        (tmp_path / "store/part-00001.parquet").write_bytes(before)


def test_store_info_prints_counts_and_lineage(tiny_store, tmp_path, capsys):
    groups = ["a", "a", "b", "b", "c", "d"]
    first = tiny_store(groups=groups, splits=["train"] * 4 + ["val", "test"])
    rows = list(first.rows())
    funnel = Funnel("second")
    funnel.keep(6)
    funnel.drop("too dull", 3)
    raw = {"tiny": {"files": ["a.tar", "b.tar"], "key": "SOURCE/ARCHIVE/NAME"}}
    write_store(
        tmp_path / "second",
        rows,
        arguments={"store": first.fingerprint},
        funnel=funnel,
        licensed=True,
        ancestors=first.lineage,
        raw=raw,
    )
    store_command("info", store=tmp_path / "second")
    out = capsys.readouterr().out
    assert "6 pairs" in out.splitlines()[0]
    assert "licensed: must not leave" in out.splitlines()[0]
    table = [re.findall(r"\w+", line) for line in out.splitlines() if line.startswith("│")]
    assert table == [
        ["tiny", "test", "1", "1"],
        ["tiny", "train", "4", "2"],
        ["tiny", "val", "1", "1"],
        ["all", "all", "6", "4"],
    ]
    assert "3  too dull" in out
    assert "raw files of tiny: 2, a.tar to b.tar; format of a key: SOURCE/ARCHIVE/NAME" in out
    assert [line.split()[2][:12] for line in out.splitlines() if line.startswith("- ")][1] == first.fingerprint[:12]


def test_store_head_and_sample_print_rows_without_images(tiny_store, tmp_path, capsys):
    store = tiny_store(["plain", "two\nlines \x1b[31mred", "[bold]markup[/bold]", "<script>alert(1)</script>"])
    store_command("head", store=store.path, num_pairs=3)
    out = capsys.readouterr().out
    assert "plain" in out
    assert "\x1b[31m" not in out
    assert "[bold]" in out
    assert "k00003" not in out
    store_command("sample", store=store.path, num_pairs=2, seed=1)
    first = capsys.readouterr().out
    store_command("sample", store=store.path, num_pairs=2, seed=1)
    assert first == capsys.readouterr().out
    assert "--num_pairs 0" in fails(capsys, "head", store=store.path, num_pairs=0)


@pytest.mark.parametrize("licensed", [True, False])
def test_store_sample_page_is_self_contained_and_escaped(tiny_store, tmp_path, draw_jpeg, licensed):
    store = tiny_store(["<script>alert(1)</script>", "a & b"], licensed=licensed)
    store_command("sample", store=store.path, num_pairs=9, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert ("must not leave this machine" in page) == licensed
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_fields_are_strings_and_bytes():
    assert set(FIELDS) == {"key", "image", "utterance", "source", "group", "split"}
    assert np.all([kind in (pa.string(), pa.binary()) for kind in FIELDS.values()])
