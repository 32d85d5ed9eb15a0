"""The page of saliency maps: what it shows, and that it refuses licensed pictures."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.cli.saliency import SIDE, _pixels, overlay
from babyvlm.io.artifacts import create
from babyvlm.models.hub import EXPORT, build, save
from support.scorers import draw_things

TRUNK = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}
KINDS = {
    "cvcl": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": {"width": 16}},
    "babyllava": {
        "class_path": "babyvlm.models.babyllava.BabyLLaVA",
        "init_args": {"language": {"width": 16, "layers": 1, "heads": 2, "inner": 16, "positions": 40}},
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, vocabulary):
    """Folders of small models, as ``export`` writes them."""
    root = tmp_path_factory.mktemp("saliency")
    for name in ("cvcl", "babyllava"):
        torch.manual_seed(0)
        init_args = KINDS[name]["init_args"] | {"vision": TRUNK, "image_size": 64, "max_tokens": 9}
        recipe = {"class_path": KINDS[name]["class_path"], "init_args": init_args}
        model = build(recipe | {"init_args": init_args | {"vocabulary": str(vocabulary)}}, Path("test")).eval()
        with create(root / name, EXPORT, {"arguments": {}, "licensed": False, "model": recipe}) as folder:
            save(model, folder)
    return root


@pytest.fixture
def world(tmp_path):
    """Pictures in a folder of Playroom, with a list of trials."""
    draw_things(tmp_path / "world" / "trials")
    (tmp_path / "world" / "playroom.json").write_text("{}")
    cells = [f"{item},ball,{name},{name}/{name}{item}.png" for item in range(3) for name in ("ball", "dog", "cup")]
    (tmp_path / "world" / "trials" / "list.csv").write_text(
        "\n".join(["trial_id,target_category,real_category,image", *cells])
    )
    return tmp_path / "world" / "trials"


def run(models, pictures, out, *more):
    main(
        [
            "saliency",
            "--models",
            f"[{','.join(map(str, models))}]",
            "--pictures",
            str(pictures),
            "--out",
            str(out),
            *more,
        ]
    )


def test_page_shows_maps_of_every_model(exported, world, tmp_path, capsys):
    models = [exported / "cvcl", exported / "babyllava", "clip:playroom"]
    run(models, world / "list.csv", tmp_path / "page.html", "--words", "[ball,dog]", "--per_word", "2")
    page = (tmp_path / "page.html").read_text()
    assert capsys.readouterr().out.strip().endswith("page.html")
    assert [text.split()[0] for text in re.findall(r"<h2>([^<]+)", page)] == ["ball", "dog"]
    assert re.findall(r"<li>[^<]*/?(cvcl|babyllava|playroom): ([^<]+)</li>", page) == [
        ("cvcl", "Grad-CAM, 2 x 2 cells"),
        ("babyllava", "attention, 2 x 2 cells"),
        ("playroom", "Grad-CAM, 2 x 2 cells"),
    ]
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(shown) == 2 * 2 * 4  # words, pictures, the picture itself and three maps
    sizes = {Image.open(io.BytesIO(base64.b64decode(one))).size for one in shown}
    assert sizes == {(24, 24), (SIDE, SIDE)}
    assert "openmoji" in page.lower()
    run(models[:1], world, tmp_path / "page.html", "--words", "[cup]", "--per_word", "1")  # a folder; replaces the page
    again = (tmp_path / "page.html").read_text()
    run(models[:1], world, tmp_path / "other.html", "--words", "[cup]", "--per_word", "1")
    assert again == (tmp_path / "other.html").read_text() != page


def test_page_takes_held_out_pairs_of_a_store(exported, tiny_store, tmp_path):
    texts = ["look at the ball", "the ball is red", "wash the cup", "the ball runs"]
    store = tiny_store(texts, splits=["train", "val", "test", "test"])
    run([exported / "cvcl"], store.path, tmp_path / "page.html", "--words", "[ball]")
    captions = re.findall(r"<figcaption>([^<]+)", (tmp_path / "page.html").read_text())
    assert captions == ["the ball is red", "the ball runs"]


@pytest.mark.parametrize("kind", ["store", "list", "list with images elsewhere", "edited store"])
def test_licensed_pictures_are_refused_in_one_line(exported, world, tiny_store, tmp_path, capsys, kind):
    pictures, more = world / "list.csv", []
    if "store" in kind:
        pictures = tiny_store(["the ball"], splits=["test"], licensed=True).path
    elif kind == "list":
        (world.parent / "playroom.json").unlink()
    else:
        more = ["--images", str(draw_things(tmp_path / "elsewhere"))]
    if kind == "edited store":
        file = pictures / "store.json"
        file.write_text(file.read_text().replace('"licensed": true', '"licensed": false'))
    with pytest.raises(SystemExit) as stopped:
        run([exported / "cvcl"], pictures, tmp_path / "page.html", "--words", "[ball]", *more)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "was edited" in line if kind == "edited store" else "is licensed, or not known to be free" in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--words", "[zebra]"], "has no pictures of 'zebra'. Choose from: ball, cup, dog"),
        (["--words", "[ball]", "--per_word", "0"], "per_word 0: must be at least 1"),
        (["--words", "[hat]"], "the word 'hat' is not in its vocabulary"),
        (["--words", "[]"], ""),
    ],
)
def test_mistakes_are_reported_in_one_line(exported, world, tmp_path, capsys, options, message):
    pictures = world if "hat" in str(options) else world / "list.csv"
    if not message:  # no words: all categories
        run([exported / "cvcl"], pictures, tmp_path / "page.html", *options)
        return
    with pytest.raises(SystemExit):
        run([exported / "cvcl"], pictures, tmp_path / "page.html", *options)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_other_files_are_not_replaced(exported, world, tmp_path, capsys):
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(SystemExit):
        run([exported / "cvcl"], world / "list.csv", tmp_path / "mine.html")
    assert "was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_maps_lie_where_they_belong():
    """The bright corner of a map is the bright corner of its picture."""
    map_hw = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    drawn = np.asarray(Image.open(io.BytesIO(overlay(torch.zeros(3, 64, 64), map_hw)))).astype(int)
    assert drawn.shape == (SIDE, SIDE, 3)
    assert drawn[200, 200].sum() > 2 * drawn[20, 20].sum()
    assert np.abs(drawn[20, 20] - drawn[20, 200]).max() < 8
    blank = np.asarray(Image.open(io.BytesIO(overlay(torch.zeros(3, 8, 8), torch.zeros(2, 2)))))
    assert np.ptp(blank[..., 1]) < 4


def test_pixels_invert_the_normalization(exported):
    import babyvlm

    model = babyvlm.load(exported / "cvcl")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    found = _pixels(model, model.preprocess(image)[None])[0]
    assert (found.permute(1, 2, 0) * 255 - torch.tensor(np.asarray(image))).abs().max() < 0.01
