"""The guard: of licensed data no picture and no word is in anything that a report or a comparison writes or prints."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.report.command import report
from babyvlm.report.comparison import compare
from support.made_runs import make_run

SECRET = "grandmother hid the marmalade"  # said in every list, by every model and in the store
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
    """``lay()``: lists, a store and two runs in the working folder, all free to show; whoever calls takes that away."""
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
                said=[f"{SECRET} indeed"] * 4,
                facts=facts,
                **dict.fromkeys(LISTS, credit),
            )
            (run / "checkpoints").mkdir()
        return tmp_path

    return make


def told(folder, capsys):
    """All that report and compare print and write."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    capsys.readouterr()
    report(folder / "logs", folder / "out", details=False)
    compare(folder / "logs" / "A-filtered", folder / "logs" / "B-filtered", folder / "out" / "compare.html")
    files = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    assert any(path.name == "report.html" for path in files)
    return files, capsys.readouterr().out


def shows(files, name):
    """Whether a page has words of the list, and pictures."""
    page = next(content for path, content in files.items() if path.name == name).decode()
    assert (SECRET in page) == ("data:image/jpeg" in page)
    return SECRET in page


def hold(files, printed):
    everything = b"".join(files.values()) + printed.encode()
    return SECRET.encode() in everything or b"image/jpeg" in everything or b"\xff\xd8\xff" in everything


def test_what_is_free_is_shown(lay, capsys):
    files, printed = told(lay(), capsys)
    assert shows(files, "report.html")
    assert shows(files, "compare.html")
    assert SECRET in " ".join(printed.split())
    assert "OpenMoji" in next(content for path, content in files.items() if path.name == "report.html").decode()
    pictures = [content for path, content in files.items() if path.suffix == ".jpg"]
    assert len(pictures) == 4
    text = next(content for path, content in files.items() if path.name == "report.md").decode()
    assert f"A-filtered: {SECRET} indeed (1.00)" in text


def take_playroom_away(folder):
    (folder / "world" / "playroom.json").unlink()


def call_it_licensed(folder):
    """A benchmark of licensed frames with negative pictures of Playroom's."""
    (folder / "world" / "trials" / "benchmark.json").write_text(json.dumps({"world": "playroom", "licensed": True}))


def tear_the_manifest(folder):
    (folder / "world" / "trials" / "benchmark.json").write_text('{"licensed": fal')


def put_the_images_elsewhere(folder):
    shutil.move(folder / "world" / "trials", folder / "elsewhere")
    (folder / "world" / "trials").mkdir()
    for path in (folder / "elsewhere").glob("*.csv"):
        path.rename(folder / "world" / "trials" / path.name)
    change(
        folder,
        lambda config: [
            callback["init_args"].update(images="elsewhere") for callback in config["trainer"]["callbacks"]
        ],
    )


def link_the_images(folder):
    (folder / "frames").mkdir()
    for path in (folder / "world" / "trials").glob("*.jpg"):
        path.rename(folder / "frames" / path.name)
        path.symlink_to(folder / "frames" / path.name)


def change(folder, edit):
    for path in (folder / "logs").glob("*/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        edit(config)
        path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "spoil",
    [
        take_playroom_away,
        call_it_licensed,
        tear_the_manifest,
        put_the_images_elsewhere,
        lambda folder: shutil.rmtree(folder / "world"),
        lambda folder: change(folder, lambda config: config.pop("trainer")),
    ],
)
def test_nothing_of_a_list_that_is_not_known_to_be_free(lay, capsys, spoil):
    folder = lay()
    spoil(folder)
    files, printed = told(folder, capsys)
    assert not hold(files, printed)
    for name in ("report.html", "compare.html"):
        page = next(content for path, content in files.items() if path.name == name).decode()
        assert "left out: licensed, or not known to be free" in page


def test_a_link_out_of_the_list_shows_no_picture(lay, capsys):
    folder = lay()
    link_the_images(folder)
    files, printed = told(folder, capsys)
    assert not hold(files, printed)


def test_results_that_call_themselves_licensed(lay, capsys):
    files, printed = told(lay(facts={"licensed": "True"}), capsys)
    assert not hold(files, printed)


def test_a_comparison_with_a_run_on_licensed_lists_shows_nothing_of_them(lay, capsys):
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


def forget_the_store(folder):
    shutil.rmtree(folder / "stores")


def begin_from_a_licensed_phase(folder):
    """A phase that begins from itself besides, as no config of ours does."""
    config = "model: {init_args: {}}\ndata: {init_args: {sources: [{store: x}]}}"
    language = make_run(folder / "logs", "Language", 0, config=config)
    provenance = {"stores": {"frames": {"fingerprint": "0" * 64, "licensed": True, "rows": 1}}}
    (language / "provenance.json").write_text(json.dumps(provenance))
    change(folder, lambda config: config["model"]["init_args"].update(init_language=str(language)))


def begin_from_nowhere(folder):
    change(folder, lambda config: config["model"]["init_args"].update(init_from="gone/checkpoints/last.ckpt"))


def note_a_licence(folder):
    for path in (folder / "logs").glob("*/*/config.yaml"):
        stores = {"home": {"fingerprint": "0" * 64, "licensed": True, "rows": 6}}
        (path.parent / "provenance.json").write_text(json.dumps({"stores": stores}))


@pytest.mark.parametrize(
    "spoil", [None, forget_the_store, begin_from_a_licensed_phase, begin_from_nowhere, note_a_licence]
)
def test_what_learnt_from_licensed_words_may_repeat_them(lay, capsys, spoil):
    folder = lay(licensed_store=spoil is None)
    if spoil is not None:
        spoil(folder)
    files, _ = told(folder, capsys)
    page = next(content for path, content in files.items() if path.name == "report.html").decode()
    assert SECRET not in page
    assert "Captions and pictures of A-filtered, B-filtered are left out" in page
    assert shows(files, "compare.html")  # the list itself is free


def test_the_hub_gets_no_weights_of_licensed_pairs(lay, capsys):
    folder = lay(licensed_store=True)
    run = str(folder / "logs" / "A-filtered" / "version_0")
    (folder / "logs" / "A-filtered" / "version_0" / "checkpoints" / "last.ckpt").write_bytes(b"x")
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", run, "--out", str(folder / "exported"), "--hub", "lab/model"])
    assert stopped.value.code == 2
    assert "--licensed_export true" in capsys.readouterr().err
    assert not (folder / "exported").exists()
