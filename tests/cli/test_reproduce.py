"""`reproduce` on a hand-made miniature of the authors' lists and a tiny published model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from babyvlm.cli.main import run
from babyvlm.cli.reproduce import PUBLISHED_WEIGHTS, reproduce
from babyvlm.errors import UserError
from babyvlm.report.paper import BABYCL, NUMBERS
from support.published_models import write

LISTS = {
    "labeled_s.csv": "trial_id,target_category,real_category,image\n"
    + "".join(f"{n},{t},{c},{c}/1.png\n" for n, t in enumerate(("cat", "ball")) for c in ("ball", "cat", "cup", "dog")),
    "vtwt.csv": "image,positive_phrase,negative_phrase\na.png,see dog,wash cup\nb.png,red ball,blue ball\n",
    "baby_winoground.csv": "instance_id,positive_phrase,negative_phrase,image,image_tag\n"
    "0,see dog,wash cup,a.png,positive\n0,see dog,wash cup,a_neg.png,negative\n",
}


@pytest.fixture
def saycam(tmp_path):
    random = np.random.default_rng(0)
    names = ["frames/a.png", "frames/b.png", "negatives/a_neg.png"]
    names += [f"labeled/{thing}/1.png" for thing in ("ball", "cat", "cup", "dog")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "lists").mkdir()
    for name, text in LISTS.items():
        (tmp_path / "lists" / name).write_text(text)
    return tmp_path


def test_reproduce_prints_ours_next_to_published(saycam, capsys, monkeypatch):
    folder = write(saycam / "models", "cvcl_embedding")
    words = [
        *("reproduce", "--models", json.dumps({"CVCL-original": str(folder), "CVCL-filtered": str(folder)})),
        *("--trials", str(saycam / "lists"), "--images", str(saycam / "frames"), "--out", str(saycam / "out")),
        *("--labeled_s_images", str(saycam / "labeled"), "--negative_images", str(saycam / "negatives")),
    ]
    run(words)
    shown = capsys.readouterr().out
    assert "SAYCam_caption.csv: not found, left out" in shown
    assert "prior, no image" in shown
    assert "1.13 points on Labeled-S" in shown
    rows = list(csv.DictReader((saycam / "out" / "reproduction.csv").open()))
    assert [(row["model"], row["benchmark"]) for row in rows] == [
        (model, name)
        for model in ("CVCL-original", "CVCL-filtered")
        for name in ("labeled_s", "vtwt", "baby_winoground")
    ]
    for row in rows:
        published = (NUMBERS | BABYCL)[row["model"]][row["benchmark"]]
        ours = float(row["ours"].split()[0])
        assert float(row["published"]) == pytest.approx(published, abs=5e-4)
        assert float(row["difference"].split()[0]) == pytest.approx(ours - published, abs=1e-3)
        assert row["source"] == ("arXiv 2606.05115" if row["model"] == "CVCL-original" else "arXiv 2504.09426")
    assert {row["prior, no image"] for row in rows if row["benchmark"] == "vtwt"} == {"0.500"}

    # Complete results are reused, those of a changed list are not.
    loaded = []
    monkeypatch.setattr("babyvlm.cli.reproduce._load", lambda row, *_: loaded.append(row) or pytest.fail("evaluated"))
    run(words)
    assert not loaded
    (saycam / "lists" / "vtwt.csv").write_text(LISTS["vtwt.csv"].replace("wash cup", "eat cup"))
    with pytest.raises(pytest.fail.Exception):
        run(words)
    assert loaded == ["CVCL-original"]


def test_reproduce_names_rows_and_lists(tmp_path):
    with pytest.raises(UserError, match=r"CVCL-best is not a published row. Rows: CLIP-large .*CVCL-original"):
        reproduce({"CVCL-best": "x"}, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"none of labeled_s.csv, .* found"):
        reproduce({"CVCL-filtered": "x"}, tmp_path, tmp_path / "out")
    assert PUBLISHED_WEIGHTS.keys() <= (NUMBERS | BABYCL).keys()
