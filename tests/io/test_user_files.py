"""No command overwrites or deletes a file of the user, and no name in data leads out of a folder."""

import csv
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from babyvlm.ablations.matrix import read_matrix
from babyvlm.benchmark_builder.assemble import assemble
from babyvlm.benchmark_builder.items import COLUMNS, Items
from babyvlm.benchmark_builder.labeled_s import LABELED_COLUMNS
from babyvlm.benchmark_builder.verdicts import read_verdicts
from babyvlm.cli.export import _upload
from babyvlm.cli.lightning import _checked_folder, resume
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.profiles import find_profile
from babyvlm.curation.ingest.released import released
from babyvlm.curation.store.export import export
from babyvlm.curation.store.inspection import sample
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.data.feature_cache import FeatureCacheWriter
from babyvlm.data.vocabulary import Vocabulary, _published_words
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.artifacts import read_manifest
from babyvlm.io.files import resolve_inside, safe_name
from babyvlm.io.hub import refuse_code
from babyvlm.models.hub import load_run
from babyvlm.report.command import compare, report
from support.made_runs import make_run

TEXT = "written by the user"


@pytest.fixture
def diary(tmp_path):
    """A file of the user beside the outputs."""
    path = tmp_path / "diary.txt"
    path.write_text(TEXT)
    return path


def build(out, draw_jpeg, **options):
    row = {"key": "a", "image": draw_jpeg(0, 32), "utterance": "ball", "source": "s", "group": "a", "split": "train"}
    return write_store(out, [row], arguments={}, funnel=Funnel("demo"), licensed=False, **options)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0b", "a\nb", "\x1b[2J", ".hidden", "a" * 201, "é" * 101],
)
def test_safe_name_refuses_paths_and_control_characters(name):
    with pytest.raises(UserError, match=r"row 3: .* is not a valid name") as caught:
        safe_name(name, "list.csv, row 3")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["CVCL", "p-0.1_b", "red ball", "été"])
def test_safe_name_keeps_usual_names(name):
    assert safe_name(name, "name") == name


def test_resolve_inside_refuses_every_way_out(tmp_path, diary):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.jpg").touch()
    (folder / "link").symlink_to(diary)
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    assert resolve_inside(folder, "sub/a.jpg") == (folder / "sub/a.jpg").resolve()
    for name in ("", "..", "../diary.txt", "sub/../sub/a.jpg", "../folder/sub/a.jpg", str(diary), "a\0", "link"):
        assert resolve_inside(folder, name) is None
    for name in ("up/diary.txt", "loop", "loop/a"):
        assert resolve_inside(folder, name) is None


@pytest.mark.parametrize("suffix", ["partial", "lock"])
def test_stage_keeps_what_the_user_has_beside_its_output(tmp_path, draw_jpeg, suffix):
    source, own = build(tmp_path / "source", draw_jpeg), tmp_path / f"a.{suffix}"
    if suffix == "lock":
        own.write_text(TEXT)
    else:
        own.mkdir()
        (own / "diary.txt").write_text(TEXT)
    file = own if own.is_file() else own / "diary.txt"
    with pytest.raises(UserError, match=f"a.{suffix}: .*(Move|delete)"):
        export(source.path, tmp_path / "a")
    assert file.read_text() == TEXT
    assert not (tmp_path / "a").exists()


def make_frames(folder, draw_jpeg):
    (folder / "frames").mkdir()
    (folder / "frames/a.jpg").write_bytes(draw_jpeg(0, 32))
    (folder / "list.csv").write_text("image,utterance\na.jpg,a ball\n")
    return {"frames": folder / "frames", "captions": folder / "list.csv", "num_workers": 1, "licensed": False}


def test_released_keeps_folder_of_the_user_that_is_named_like_its_parts(tmp_path, draw_jpeg):
    arguments = make_frames(tmp_path, draw_jpeg)
    (tmp_path / "a.parts").mkdir()
    (tmp_path / "a.parts/diary.txt").write_text(TEXT)
    (tmp_path / "a.parts/.diary").write_text(TEXT)
    with pytest.raises(UserError, match=r"a\.parts: was not created by this package"):
        released(out=tmp_path / "a", **arguments)
    assert {path.read_text() for path in (tmp_path / "a.parts").iterdir()} == {TEXT}
    released(out=tmp_path / "b", **arguments)
    (tmp_path / "a.parts").rename(tmp_path / "b.parts")
    released(out=tmp_path / "b", **arguments)  # already complete
    assert len(list((tmp_path / "b.parts").iterdir())) == 2


def test_released_keeps_list_of_the_user_that_is_named_like_its_list(tmp_path, draw_jpeg):
    arguments = make_frames(tmp_path, draw_jpeg)
    (tmp_path / "a.released.csv").write_text(TEXT)
    with pytest.raises(UserError, match=r"a\.released\.csv: already exists and was not written by this command"):
        released(out=tmp_path / "a", **arguments)
    assert (tmp_path / "a.released.csv").read_text() == TEXT
    (tmp_path / "a.released.csv").write_text("image,problem\nold.jpg,image missing\n")
    released(out=tmp_path / "a", **arguments)
    assert (tmp_path / "a.released.csv").read_text() == "image,problem\n"


def test_sample_keeps_page_of_the_user(tmp_path, draw_jpeg):
    store = build(tmp_path / "store", draw_jpeg).path
    (tmp_path / "page.html").write_text("<!doctype html><p>mine")
    with pytest.raises(UserError, match=r"page\.html: already exists and was not written by this command"):
        sample(store, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "<!doctype html><p>mine"
    sample(store, out=tmp_path / "new.html")
    sample(store, out=tmp_path / "new.html")  # its own page is replaced


def test_create_removes_only_folders_that_it_created(tmp_path, diary):
    with pytest.raises(RuntimeError), artifacts.create(tmp_path / "a", "x", {"arguments": {"n": 1}}, keep_partial=True):
        raise RuntimeError
    assert (tmp_path / "a.partial" / artifacts.MARKER).is_file()
    (tmp_path / "a.partial/link").symlink_to(tmp_path)
    with artifacts.create(tmp_path / "a", "x", {"arguments": {}}) as partial:
        assert not (partial / "link").is_symlink()
    assert not (tmp_path / "a" / artifacts.MARKER).exists()
    assert diary.read_text() == TEXT
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.partial").symlink_to(tmp_path / "folder")
    with (
        pytest.raises(UserError, match=r"b\.partial: was not created"),
        artifacts.create(tmp_path / "b", "x", {"arguments": {}}),
    ):
        pass
    artifacts.create_marked(tmp_path / "c")
    artifacts.remove_marked(tmp_path / "c")
    artifacts.remove_marked(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_exclusive_keeps_link_in_place_of_lock_file(tmp_path, diary):
    (tmp_path / "a.lock").symlink_to(diary)
    with pytest.raises(UserError, match=r"a\.lock: already exists"), artifacts.exclusive(tmp_path / "a"):
        pass
    assert diary.read_text() == TEXT


def write_list(path, columns, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.mark.parametrize(
    "image",
    ["../diary.txt", "{tmp}/diary.txt", "labeled_s/../../diary.txt", "labeled_s/link.png",
     "labeled_s/../../labeled/labeled_s/a.png",
     "labeled-s.json", "images.csv", "labeled_s/diary.png"],
)  # fmt: skip
def test_assemble_copies_only_images_inside_its_parts(tmp_path, draw_jpeg, diary, image):
    manifest = {
        "arguments": {"seed": 0},
        "licensed": False,
        "world": "real",
        "trials": 1,
        "categories": [],
        "funnel": {},
    }
    with artifacts.create(tmp_path / "labeled", "labeled-s", manifest) as partial:
        (partial / "labeled_s").mkdir()
        (partial / "labeled_s/a.png").write_bytes(draw_jpeg(0, 32))
        (partial / "labeled_s/diary.png").write_text(TEXT)
        (partial / "labeled_s/link.png").symlink_to(diary)
        (partial / "images.csv").write_text(TEXT)
        name = image.format(tmp=tmp_path)
        write_list(partial / "labeled_s.csv", LABELED_COLUMNS, ["0", "cup", "cup", name])
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"is not in .*labeled_s|is not an image that can be copied"):
        assemble(tmp_path / "benchmark", labeled_s=tmp_path / "labeled")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert diary.read_text() == TEXT


@pytest.mark.parametrize("name", ["../../diary", "/tmp/diary", "..", ".hidden", "a/b", "x" * 300])
def test_items_refuses_names_that_are_paths(tmp_path, draw_jpeg, name):
    (tmp_path / "items").mkdir()
    (tmp_path / "items/a.jpg").write_bytes(draw_jpeg(0, 32))
    write_list(tmp_path / "items/items.csv", COLUMNS, [name, "a.jpg", "red ball", "blue ball", "adjective"])
    with pytest.raises(UserError, match=r"items\.csv, row 2: item: .* is not a valid name"):
        _ = Items(tmp_path / "items").rows


@pytest.mark.parametrize("folder", ["../../x/y", "../x", "a/..", "/a/b", "a", ".a/b", "a/b\n"])
def test_fit_refuses_run_folder_that_leaves_log_dir(tmp_path, folder):
    with pytest.raises(UserError, match=re.escape("--run_folder")):
        _checked_folder(tmp_path / "logs", Path(folder))


def test_resume_refuses_config_that_names_another_folder_above_the_run(tmp_path):
    run = tmp_path / "downloads/row/version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"log_dir: {tmp_path}\n")
    with pytest.raises(UserError, match="Call resume in the folder where fit was called"):
        resume(run)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_vocabulary_copies_its_own_files_only(tmp_path, vocabulary, diary):
    copy = tmp_path / "vocabulary"
    Vocabulary(vocabulary).copy_to(copy)
    (copy / "notes.json").symlink_to(diary)
    Vocabulary(copy).copy_to(tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        "tokenizer.json", "tokenizer_config.json", "vocabulary.json", "vocabulary.json.sha256",
    ]  # fmt: skip
    (copy / "tokenizer_config.json").unlink()
    (copy / "tokenizer_config.json").symlink_to(diary)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: is a link"):
        Vocabulary(copy).copy_to(tmp_path / "third")


def test_export_refuses_to_upload_links(tmp_path, diary):
    (tmp_path / "export/vocabulary").mkdir(parents=True)
    (tmp_path / "export/vocabulary/diary.json").symlink_to(diary)
    with pytest.raises(UserError, match=r"diary\.json: is a link; its target would be uploaded"):
        _upload(tmp_path / "export", "ORG/NAME", private=True)


def test_store_refuses_shards_outside_its_folder(tmp_path, draw_jpeg):
    store = build(tmp_path / "store", draw_jpeg).path
    (tmp_path / "part-00000.parquet").write_bytes((store / "part-00000.parquet").read_bytes())
    manifest = (store / "store.json").read_text()
    for name in ("../part-00000.parquet", f"{tmp_path}/part-00000.parquet", ""):
        (store / "store.json").write_text(manifest.replace("part-00000.parquet", name))
        with pytest.raises(UserError, match=r"store\.json: was edited after it was written"):
            PairStore(store).columns("key")
        (store / "store.json.sha256").rename(store / "seal")  # as if the checksum had been removed too
        with pytest.raises(UserError, match=r"store\.json: .* is not a file of the store"):
            PairStore(store).columns("key")
        (store / "seal").rename(store / "store.json.sha256")
    assert pa.types.is_string(build(tmp_path / "good", draw_jpeg).columns("key")["key"].type)


STATE = ['{"a": ', "[]", "[" * 100_000, "\udcff"]


@pytest.mark.parametrize("content", STATE, ids=["torn", "a list", "deep", "not UTF-8"])
def test_damaged_state_is_one_line_or_built_again(tmp_path, draw_jpeg, content):
    """Files that only this package writes, as a crash of the disk or another program may leave them."""
    data = content.encode(errors="surrogateescape")
    for name in ("store.json", "scratch/arguments.json"):
        partial = tmp_path / "store.partial"
        artifacts.create_marked(partial)
        (partial / "scratch").mkdir(exist_ok=True)
        (partial / name).write_bytes(data)
        assert not artifacts.is_complete(tmp_path / "store", "store", {})
        with artifacts.create(tmp_path / "store", "store", {"arguments": {}}, keep_partial=True):
            pass
        artifacts.read_manifest(tmp_path / "store", "store")
        shutil.rmtree(tmp_path / "store")
    with artifacts.create(tmp_path / "embeddings", "embeddings", {"arguments": {}}) as folder:
        (folder / "keys.json").write_bytes(data)
    if content != "[]":
        with pytest.raises(UserError, match=r"keys\.json: "):
            _ = Embeddings(tmp_path / "embeddings").keys
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts/ann.jsonl").write_bytes(data + b"\n")
    with pytest.raises(UserError, match="row 1: not a verdict"):
        read_verdicts(tmp_path / "verdicts/ann.jsonl", "x")


@pytest.fixture
def logs(tmp_path):
    for row in ("A", "B"):
        make_run(tmp_path / "logs", row, 0, vtwt=[1, 0, 1, 1])
    return tmp_path / "logs"


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "other"}', "[]", '{"kind": "report-of-runs"', None])
def test_report_keeps_folder_of_the_user_with_a_file_like_its_manifest(tmp_path, logs, diary, content):
    out = tmp_path / "mine"
    out.mkdir()
    if content is not None:
        (out / "report-of-runs.json").write_text(content)
    (out / "report.json").write_text("{}")
    diary.rename(out / "diary.txt")
    with pytest.raises(UserError, match="mine: already exists and is not a report"):
        report(logs, out)
    assert (out / "diary.txt").read_text() == TEXT


def test_report_keeps_what_the_user_added_to_a_report(tmp_path, logs, diary):
    report(logs, tmp_path / "out")
    report(logs, tmp_path / "out")
    (tmp_path / "out" / "tables" / "notes").mkdir()
    diary.rename(tmp_path / "out" / "tables" / "notes" / "diary.txt")
    with pytest.raises(UserError, match=r"out: tables/notes/diary\.txt does not belong to the report"):
        report(logs, tmp_path / "out")
    assert (tmp_path / "out" / "tables" / "notes" / "diary.txt").read_text() == TEXT
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match="is not a report"):
        report(logs, tmp_path / "link")


def test_compare_keeps_page_of_the_user(tmp_path, logs):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html>\n<html lang='en'>\n{TEXT}")
    before = page.read_text()
    with pytest.raises(UserError, match=r"page\.html: already exists and was not written by this command"):
        compare(logs / "A", logs / "B", page)
    assert page.read_text() == before
    for _ in range(2):  # its own page is replaced
        compare(logs / "A", logs / "B", tmp_path / "own.html")


def test_feature_cache_keeps_folder_that_is_not_a_cache(tmp_path):
    (tmp_path / "store-0123").mkdir()
    (tmp_path / "store-0123/diary.txt").write_text(TEXT)
    with pytest.raises(UserError, match="is not a feature cache"):
        FeatureCacheWriter(tmp_path / "store-0123", 1, {}).is_complete()
    assert (tmp_path / "store-0123/diary.txt").read_text() == TEXT


def manifest_of(folder):
    folder.mkdir()
    return folder / "store.json", lambda: read_manifest(folder, "store")


def saved_config_of(folder):
    (folder / "checkpoints").mkdir(parents=True)
    return folder / "config.yaml", lambda: load_run(folder)


def model_settings_of(folder):
    folder.mkdir()
    return folder / "config.json", lambda: refuse_code(folder)


def matrix_of(folder):
    folder.mkdir()
    return folder / "matrix.yaml", lambda: read_matrix(folder / "matrix.yaml")


def profile_of(folder):
    folder.mkdir()
    return folder / "profile.yaml", lambda: find_profile(str(folder / "profile.yaml"))


def words_of(folder):
    folder.mkdir()
    return folder / "vocab.json", lambda: _published_words(folder / "vocab.json")


@pytest.mark.parametrize("reading", [manifest_of, saved_config_of, model_settings_of, matrix_of, profile_of, words_of])
def test_file_that_never_ends_is_not_read(tmp_path, reading):
    """An archive can contain pipes, links to devices, and sparse files of terabytes."""
    path, read = reading(tmp_path / "given")
    os.mkfifo(path)
    with pytest.raises(UserError, match=path.name):
        read()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=path.name):
        read()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(UserError, match="longer than"):
        read()
