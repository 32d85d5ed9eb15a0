import csv
import json
import tarfile

import pytest

from babyvlm.__main__ import main
from babyvlm.curation.ingest.web import web
from babyvlm.curation.store.export import export
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.text import normalize

UTTERANCES = ['say "hi", now', "two\tcells", "naïve café <unk>", "=1+1", "last"]


def test_store_export_webdataset_holds_all_columns(tiny_store, tmp_path):
    store = tiny_store(UTTERANCES, source="s")
    main(["store", "export", "--store", str(store.path), "--out", str(tmp_path / "tars")])
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    rows = list(store.rows())
    for number, row in enumerate(rows):
        name = f"{number:09d}"
        assert files.pop(f"{name}.jpg") == row["image"]
        assert files.pop(f"{name}.txt").decode() == row["utterance"]
        assert json.loads(files.pop(f"{name}.json")) == {c: row[c] for c in ("key", "source", "group", "split")}
    assert not files
    web([tmp_path / "tars"], tmp_path / "again")
    again = list(PairStore(tmp_path / "again").rows())
    assert [row["image"] for row in again] == [row["image"] for row in rows]
    assert [row["utterance"] for row in again] == [normalize(text) for text in UTTERANCES]


def test_store_export_folder_can_be_read_by_curate_web(tiny_store, tmp_path):
    store = tiny_store(UTTERANCES)
    export(store.path, tmp_path / "folder", format="folder")
    with (tmp_path / "folder" / "pairs.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["caption"] for row in listed] == UTTERANCES
    for row, original in zip(listed, store.rows(), strict=True):
        assert (tmp_path / "folder" / row["image"]).read_bytes() == original["image"]
        assert {c: row[c] for c in ("key", "source", "group", "split")} == {
            c: original[c] for c in ("key", "source", "group", "split")
        }
    web([tmp_path / "folder"], tmp_path / "again")
    assert [row["image"] for row in PairStore(tmp_path / "again").rows()] == [row["image"] for row in store.rows()]
    assert not list(tmp_path.rglob("scratch"))


@pytest.mark.parametrize("format", ["webdataset", "folder"])
def test_store_export_refuses_licensed_store_by_default(tiny_store, tmp_path, capsys, format):
    store = tiny_store(licensed=True)
    with pytest.raises(SystemExit) as exit_info:
        main(["store", "export", "--store", str(store.path), "--out", str(tmp_path / "x"), "--format", format])
    assert exit_info.value.code == 2
    assert "--licensed_export true" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    export(store.path, tmp_path / "x", format, licensed_export=True)
    assert json.loads((tmp_path / "x" / "export.json").read_text())["licensed"] is True


def test_store_export_skips_complete_and_refuses_other_format(tiny_store, tmp_path, capsys):
    store = tiny_store()
    export(store.path, tmp_path / "x")
    export(store.path, tmp_path / "x")
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="built with different arguments: format"):
        export(store.path, tmp_path / "x", format="folder")


def test_store_export_resumes_with_missing_archives(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr("babyvlm.curation.store.pair_store.SHARD_ROWS", 2)
    monkeypatch.setattr("babyvlm.curation.store.export.SHARD_ROWS", 2)
    monkeypatch.setattr("babyvlm.curation.store.pair_store.GROUP_ROWS", 1)
    store = tiny_store()
    export(store.path, tmp_path / "complete")
    opened, real = [], tarfile.open

    def failing(path, *args, **kwargs):
        opened.append(path.name)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return real(path, *args, **kwargs)

    monkeypatch.setattr(tarfile, "open", failing)
    with pytest.raises(KeyboardInterrupt):
        export(store.path, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    export(store.path, tmp_path / "x")
    assert opened == ["00000.tar", "00001.tar", "00002.tar", "00002.tar"]
    for name in ("00000.tar", "00001.tar", "00002.tar", "export.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "complete" / name).read_bytes()
