"""Licence guard: no image and no text of licensed data is in anything that `report` or `compare` writes or prints."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.report.command import compare, report
from support.made_runs import make_run

SECRET = "grandmother hid the marmalade"  # in every list, every caption and the store
LISTS = {
    "caption": ("Caption", ["image,text", *(f"{n}.jpg,{SECRET} {n}" for n in range(4))]),
    "vtwt": ("VisualTwoWord", ["image,positive_phrase,negative_phrase", *(f"{n}.jpg,{SECRET},x" for n in range(4))]),
    "labeled_s": (
        "LabeledS",
        [
            "trial_id,target_category,real_category,image",
            *(f"{n},{SECRET},{SECRET if k == 2 else 'other'},{k}.jpg" for n in range(4) for k in range(4)),
        ],
    ),
    "baby_winoground": (
        "BabyWinoground",
        [
            "instance_id,positive_phrase,negative_phrase,image,image_tag",
            *(f"{n},{SECRET},x,{n}.jpg,{tag}" for n in range(4) for tag in ("negative", "positive")),
        ],
    ),
}
ITEMS = {"caption": [f"{n + 2}:{n}.jpg" for n in range(4)], "vtwt": [f"{n + 2}:{n}.jpg" for n in range(4)]}


@pytest.fixture
def lay(tmp_path, tiny_store, draw_jpeg, monkeypatch):
    """``lay()`` makes lists, a store and two runs in the working folder, all free to show."""
    monkeypatch.chdir(tmp_path)

    def make(*, licensed_store=False, facts=None):
        (tmp_path / "world" / "trials").mkdir(parents=True)
        (tmp_path / "stores").mkdir()
        (tmp_path / "world" / "playroom.json").write_text("{}")
        for n in range(4):
            (tmp_path / "world" / "trials" / f"{n}.jpg").write_bytes(draw_jpeg(n, 64))
        for name, (_, lines) in LISTS.items():
            (tmp_path / "world" / "trials" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        tiny_store([f"{SECRET} {n}" for n in range(6)], path=tmp_path / "stores" / "home", licensed=licensed_store)
        callbacks = [
            {"class_path": f"babyvlm.benchmarks.{kind}", "init_args": {"trials": f"world/trials/{name}.csv"}}
            for name, (kind, _) in LISTS.items()
        ]
        data = {"stores": "stores", "sources": [{"store": "home"}], "batch_size": 2}
        config = {
            "trainer": {"callbacks": callbacks},
            "data": {"init_args": data},
            "model": {"class_path": "x.BabyLLaVA", "init_args": {"init_from": None}},
        }
        for row, credit in (("A-filtered", [1, 0, 1, 0]), ("B-filtered", [0, 1, 1, 0])):
            run = make_run(
                tmp_path / "logs",
                row,
                0,
                config=yaml.safe_dump(config),
                world="playroom",
                items=ITEMS,
                captions=[f"{SECRET} indeed"] * 4,
                facts=facts,
                **dict.fromkeys(LISTS, credit),
            )
            (run / "checkpoints").mkdir()
        return tmp_path

    return make


def outputs(folder, capsys):
    """Return all files and text that `report` and `compare` write and print."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    capsys.readouterr()
    report(folder / "logs", folder / "out", details=False)
    compare(folder / "logs" / "A-filtered", folder / "logs" / "B-filtered", folder / "out" / "compare.html")
    files = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    assert any(path.name == "report.html" for path in files)
    return files, capsys.readouterr().out


def shows(files, name):
    """Return whether a page contains text of the list, and images."""
    page = next(content for path, content in files.items() if path.name == name).decode()
    assert (SECRET in page) == ("data:image/jpeg" in page)
    return SECRET in page


def contains_secret(files, printed):
    everything = b"".join(files.values()) + printed.encode()
    return SECRET.encode() in everything or b"image/jpeg" in everything or b"\xff\xd8\xff" in everything


def test_report_shows_free_data(lay, capsys):
    files, printed = outputs(lay(), capsys)
    assert shows(files, "report.html")
    assert shows(files, "compare.html")
    assert SECRET in " ".join(printed.split())
    assert "OpenMoji" in next(content for path, content in files.items() if path.name == "report.html").decode()
    images = [content for path, content in files.items() if path.suffix == ".jpg"]
    assert len(images) == 4
    text = next(content for path, content in files.items() if path.name == "report.md").decode()
    assert f"A-filtered: {SECRET} indeed (1.00)" in text


def remove_playroom_manifest(folder):
    (folder / "world" / "playroom.json").unlink()


def mark_benchmark_licensed(folder):
    """A benchmark of licensed frames with negative images from Playroom."""
    (folder / "world" / "trials" / "benchmark.json").write_text(json.dumps({"world": "playroom", "licensed": True}))


def truncate_manifest(folder):
    (folder / "world" / "trials" / "benchmark.json").write_text('{"licensed": fal')


def move_images(folder):
    shutil.move(folder / "world" / "trials", folder / "elsewhere")
    (folder / "world" / "trials").mkdir()
    for path in (folder / "elsewhere").glob("*.csv"):
        path.rename(folder / "world" / "trials" / path.name)
    edit_configs(
        folder,
        lambda config: [
            callback["init_args"].update(images="elsewhere") for callback in config["trainer"]["callbacks"]
        ],
    )


def link_images(folder):
    (folder / "frames").mkdir()
    for path in (folder / "world" / "trials").glob("*.jpg"):
        path.rename(folder / "frames" / path.name)
        path.symlink_to(folder / "frames" / path.name)


def edit_configs(folder, edit):
    for path in (folder / "logs").glob("*/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        edit(config)
        path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "break_licence",
    [
        remove_playroom_manifest,
        mark_benchmark_licensed,
        truncate_manifest,
        move_images,
        lambda folder: shutil.rmtree(folder / "world"),
        lambda folder: edit_configs(folder, lambda config: config.pop("trainer")),
    ],
)
def test_report_hides_lists_not_known_to_be_free(lay, capsys, break_licence):
    folder = lay()
    break_licence(folder)
    files, printed = outputs(folder, capsys)
    assert not contains_secret(files, printed)
    for name in ("report.html", "compare.html"):
        page = next(content for path, content in files.items() if path.name == name).decode()
        assert "not shown: licensed, or not known to be free" in page


def test_report_hides_linked_images(lay, capsys):
    folder = lay()
    link_images(folder)
    files, printed = outputs(folder, capsys)
    assert not contains_secret(files, printed)


def test_report_hides_results_marked_licensed(lay, capsys):
    files, printed = outputs(lay(facts={"licensed": "True"}), capsys)
    assert not contains_secret(files, printed)


def test_compare_hides_licensed_lists_of_either_run(lay, capsys):
    folder = lay()
    free, other = folder / "logs" / "A-filtered", folder / "logs" / "B-filtered"
    for file in (other / "version_0" / "results").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | {b"licensed": b"True"}), file)
    for one, two in ((free, other), (other, free)):
        compare(one, two, folder / "page.html")
        page = (folder / "page.html").read_text()
        assert SECRET not in page
        assert "image/jpeg" not in page


def remove_store(folder):
    shutil.rmtree(folder / "stores")


def start_from_licensed_phase(folder):
    """An earlier phase, which also starts from itself."""
    config = "model: {init_args: {}}\ndata: {init_args: {sources: [{store: x}]}}"
    language = make_run(folder / "logs", "Language", 0, config=config)
    provenance = {"stores": {"frames": {"fingerprint": "0" * 64, "licensed": True, "rows": 1}}}
    (language / "provenance.json").write_text(json.dumps(provenance))
    edit_configs(folder, lambda config: config["model"]["init_args"].update(init_language=str(language)))


def start_from_missing_run(folder):
    edit_configs(folder, lambda config: config["model"]["init_args"].update(init_from="gone/checkpoints/last.ckpt"))


def record_licensed_store(folder):
    for path in (folder / "logs").glob("*/*/config.yaml"):
        stores = {"home": {"fingerprint": "0" * 64, "licensed": True, "rows": 6}}
        (path.parent / "provenance.json").write_text(json.dumps({"stores": stores}))


@pytest.mark.parametrize(
    "break_licence", [None, remove_store, start_from_licensed_phase, start_from_missing_run, record_licensed_store]
)
def test_report_hides_captions_of_models_trained_on_licensed_text(lay, capsys, break_licence):
    folder = lay(licensed_store=break_licence is None)
    if break_licence is not None:
        break_licence(folder)
    files, _ = outputs(folder, capsys)
    page = next(content for path, content in files.items() if path.name == "report.html").decode()
    assert SECRET not in page
    assert "Captions and images of A-filtered, B-filtered are not shown" in page
    assert shows(files, "compare.html")  # the list itself is free


def test_export_refuses_licensed_weights_for_hub(lay, capsys):
    folder = lay(licensed_store=True)
    run = str(folder / "logs" / "A-filtered" / "version_0")
    (folder / "logs" / "A-filtered" / "version_0" / "checkpoints" / "last.ckpt").write_bytes(b"x")
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", run, "--out", str(folder / "exported"), "--hub", "lab/model"])
    assert stopped.value.code == 2
    assert "--licensed_export true" in capsys.readouterr().err
    assert not (folder / "exported").exists()
