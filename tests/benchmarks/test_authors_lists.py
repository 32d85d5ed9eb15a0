"""A hand-made miniature of the authors' four lists, evaluated end to end by models of which all is known."""

import re
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from babyvlm.benchmarks import VTWT, BabyWinoground, EvaluationCallback, LabeledS, SAYCamCaption
from babyvlm.report.command import report
from babyvlm.report.runs import find_rows
from babyvlm.report.tables import detail_tables
from support.small_meteor import small_meteor

# As they come: a byte-order mark, DOS line ends, a blank line, quotes.
LISTS = {
    "labeled_s.csv": """\ufefftrial_id,target_category,real_category,image
0,ball,ball,labeled_s/ball_0.jpeg
0,ball,cup,labeled_s/cup_0.jpeg
0,ball,dog,labeled_s/dog_0.jpeg
0,ball,bed,labeled_s/bed_0.jpeg
1,dog,bed,labeled_s/bed_0.jpeg
1,dog,ball,labeled_s/ball_0.jpeg
1,dog,cup,labeled_s/cup_0.jpeg
1,dog,dog,labeled_s/dog_0.jpeg
""",
    "vtwt.csv": """image,positive_phrase,negative_phrase
vtwt/S_20140420_1803_01_082_00.jpg,wash cup,kick ball

vtwt/S_20140420_1803_01_083_00.jpg,big dog,big bed
""",
    "baby_winoground.csv": """instance_id,positive_phrase,negative_phrase,image,image_tag
3,wash cup,kick ball,winoground/3_pos.jpg,positive
3,wash cup,kick ball,winoground/3_neg.png,negative
4,big dog,big bed,winoground/4_neg.png,negative
4,big dog,big bed,winoground/4_pos.jpg,positive
""",
    "SAYCam_caption.csv": """image,text
caption/S_20140420_1803_01_090_00.jpg,"look, a red ball"
caption/S_20140420_1803_01_091_00.jpg,where is the dog
""",
}
SHOWN = {
    "ball_0": "ball",
    "cup_0": "cup",
    "dog_0": "dog",
    "bed_0": "bed",
    "082_00": "cup",
    "083_00": "dog",
    "3_pos": "cup",
    "3_neg": "ball",
    "4_pos": "dog",
    "4_neg": "bed",
    "090_00": "ball",
    "091_00": "dog",
}
SAID = {"ball": "look, a red ball", "dog": "where is the dog"}
THINGS = ["ball", "cup", "dog", "bed"]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authors")
    for name, text in LISTS.items():
        (folder / name).write_bytes(text.replace("\n", "\r\n").encode())
        for image in re.findall(r"[\w/]+\.(?:jpe?g|png)", text):
            (folder / image).parent.mkdir(exist_ok=True)
            thing = next(thing for end, thing in SHOWN.items() if Path(image).stem.endswith(end))
            Image.new("RGB", (8, 8), (THINGS.index(thing) * 60, 0, 0)).save(folder / image)
    return folder


class Known(LightningModule):
    def __init__(self, rule, say=""):
        super().__init__()
        self.rule, self.say = rule, say

    def preprocess(self, image):
        return torch.tensor(float(image.getpixel((0, 0))[0])).reshape(1, 1, 1)

    def seen(self, images_BCHW):
        return [THINGS[round(red / 60) % 4] for red in images_BCHW.flatten().tolist()]

    def score(self, images_BCHW, texts, wanted_BT=None):
        return torch.tensor([[float(self.rule(thing in text)) for text in texts] for thing in self.seen(images_BCHW)])

    def caption(self, images_BCHW, max_new_tokens=25):
        return [SAID.get(thing, "") if self.say == "what it sees" else self.say for thing in self.seen(images_BCHW)]

    def test_step(self, batch, batch_idx):
        pass


@pytest.fixture(scope="module", autouse=True)
def quick_meteor(tmp_path_factory):
    with small_meteor(tmp_path_factory.mktemp("meteor")):
        yield


@pytest.mark.usefixtures("no_wordnet")
@pytest.mark.parametrize(
    ("name", "model", "labeled", "two_word", "winoground", "caption"),
    [
        ("oracle", Known(lambda fits: fits, "what it sees"), 1, 1, 1, pytest.approx(1)),
        ("adversary", Known(lambda fits: -fits, "unrelated words"), 0, 0, 0, 0),
        ("constant", Known(lambda fits: 0.3), 1 / 4, 1 / 2, 0, 0),
    ],
)
def test_benchmarks_score_known_models_exactly(tmp_path, trials, name, model, labeled, two_word, winoground, caption):
    benchmarks = [
        LabeledS(trials / "labeled_s.csv", dev_fraction=0.0),
        VTWT(trials / "vtwt.csv"),
        BabyWinoground(trials / "baby_winoground.csv"),
        SAYCamCaption(trials / "SAYCam_caption.csv"),
    ]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(tmp_path, name),
        callbacks=[EvaluationCallback(benchmarks)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (metrics,) = trainer.test(model, DataLoader([0]), verbose=False)
    assert metrics["labeled_s_test"] == labeled
    assert metrics["vtwt_test"] == two_word
    assert {value for key, value in metrics.items() if key.startswith("baby_winoground")} == {winoground}
    assert metrics["caption_meteor_15_test"] == caption
    report(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "stand-in" not in text
    assert f"| {name} | 1 | 1 | - | {labeled:.3f} [" in text
    (words,) = (table for table in detail_tables(find_rows(tmp_path)[0]) if table.title == "VTWT by word class")
    noun = words.heading.index("noun")
    assert words.heading[noun:] == ["noun", "both"]  # the list itself has no word classes
    (own,) = (row for row in words.rows if row[:2] == [name, "1"])  # "constant" is also a row without seeds
    assert own[noun].startswith(f"{two_word:.3f} [")
    assert "derived here" in words.note
    assert f"| {name}, blank image | 1 | 1 | - | 0.250 [" in text  # one word, four times the same image
