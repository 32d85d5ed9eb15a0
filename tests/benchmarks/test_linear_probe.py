"""Linear probes on pictures whose color is their category."""

import json

import pytest
import torch
from PIL import Image

from babyvlm.benchmarks import LinearProbe
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.errors import UserError
from support.scorers import Constant, Noise

NAMES = ("ball", "cup", "dog")
PER_CATEGORY = 60
CUPS = (("cup", 0, "dev"), ("cup", 1, "test"))


class Colors:
    """Embeds a picture by its red."""

    def preprocess(self, image):
        return torch.tensor(image.getpixel((0, 0))[:1], dtype=torch.float32).reshape(1, 1, 1)

    def embed_images(self, images_BCHW):
        red_B = images_BCHW.flatten()
        return torch.stack([red_B.eq(20 * n) for n in range(len(NAMES))], 1).float() + 0.01


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    for number, name in enumerate(NAMES):
        (folder / name).mkdir()
        for copy in range(PER_CATEGORY):
            Image.new("RGB", (2, 2), (20 * number, copy, 100)).save(folder / name / f"{copy}.png")
    return folder


def write_list(path, cells):
    path.write_text("\n".join(["trial_id,target_category,real_category,image,half", *map(",".join, cells)]) + "\n")
    return path


@pytest.fixture
def listed(root, tmp_path):
    """Trials of two pictures; even copies are in the dev split."""
    rows = []
    for copy in range(PER_CATEGORY):
        for number, name in enumerate(NAMES):
            other = NAMES[(number + 1) % 3]
            split = "test" if copy % 2 else "dev"
            rows += [[f"{name}{copy}", name, one, f"{one}/{copy}.png", split] for one in (name, other)]
    return write_list(tmp_path / "list.csv", rows)


def test_oracle_noise_and_constant_reach_what_they_know(root, listed):
    benchmark = LinearProbe(listed, root)
    result = evaluate(Colors(), benchmark)
    assert result.means() == {"labels_100": 1, "labels_10": 1, "labels_1": 1}
    assert {measure.chance for measure in benchmark.measures.values()} == {1 / 3}
    assert len(result.results) == 3 * 3 * 90  # measures, with a blank and with shuffled images, test pictures
    assert result.means("blank")["labels_100"] == pytest.approx(1 / 3)
    assert result.means("shuffled")["labels_100"] < 0.6
    floors = json.loads(result.facts["floors"])
    assert floors["labels_10"]["constant"] == pytest.approx(1 / 3)
    assert floors["labels_100"]["pixels"] > 0.9
    assert evaluate(Constant(), benchmark, controls=False).mean == pytest.approx(1 / 3)
    assert evaluate(Noise(), benchmark, controls=False).mean == pytest.approx(1 / 3, abs=0.2)
    with pytest.raises(UserError, match="lacks a method that linear_probe needs"):
        evaluate(object(), benchmark)


def test_subsets_are_stratified_and_nested(root, listed):
    benchmark = LinearProbe(listed, root)
    trials, missing = benchmark.load()
    assert (len(trials), missing) == (90, 0)
    parts = [{trial.item for trial in benchmark.subset(share)} for share in (1.0, 0.1, 0.01)]
    assert [len(part) for part in parts] == [90, 9, 3]
    assert parts[2] < parts[1] < parts[0]
    assert parts[0].isdisjoint({trial.item for trial in trials})
    others = LinearProbe(listed, root, seed=1)
    others.load()
    assert {trial.item for trial in others.subset(0.1)} != parts[1]


def test_folder_is_split_by_hash(root):
    benchmark = LinearProbe(root, train_fraction=0.25)
    trials, _ = benchmark.load()
    assert len(trials) / (len(NAMES) * PER_CATEGORY) == pytest.approx(0.75, abs=0.12)
    assert evaluate(Colors(), benchmark, controls=False).mean == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "ball", "ball", "ball/0.png", "dev"], ["a", "ball", "cup", "ball/0.png", "dev"]], "has two categories"),
        ([["a", "ball", "ball", "ball/0.png", "dev"], ["b", "ball", "ball", "ball/0.png", "test"]], "in both splits"),
        ([["a", "ball", "ball", "ball/0.png", "dev"]], "has 1 category; a probe needs at least 2"),
        (
            [["a", "ball", one, f"{one}/{copy}.png", half] for one, copy, half in (*CUPS, ("ball", 0, "dev"))],
            "category 'ball' has no picture to test",
        ),
    ],
)
def test_lists_that_cannot_be_probed_are_user_errors(root, tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        LinearProbe(write_list(tmp_path / "l.csv", rows), root).load()


def test_train_fraction_is_checked(root):
    with pytest.raises(UserError, match="train_fraction 1"):
        LinearProbe(root, train_fraction=1)
