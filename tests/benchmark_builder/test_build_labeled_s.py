"""Labeled-S trials out of category folders."""

import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.benchmark_builder.items import LABELED_COLUMNS, VTWT_COLUMNS, WINOGROUND_COLUMNS
from babyvlm.benchmark_builder.labeled_s import OPTIONS, UNUSED, labeled_s, sample_trials
from babyvlm.benchmarks import LabeledS, object_trials, vtwt, winoground
from babyvlm.errors import UserError

CATEGORIES = ("ball", "cat", "cup", "dog", "hat")


def trials_of(rows):
    rows = list(rows)
    return [rows[start : start + OPTIONS] for start in range(0, len(rows), OPTIONS)]


folders = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 9), min_size=4, max_size=9)


@given(folders, st.integers(1, 12), st.integers(0, 2**32))
def test_sample_trials_is_balanced(sizes, per_category, seed):
    images = {category: [f"{category}/{n}" for n in range(count)] for category, count in sizes.items()}
    trials = trials_of(sample_trials(images, per_category, seed))
    assert len(trials) == per_category * len(images)
    assert len({trial[0][0] for trial in trials}) == len(trials)
    for trial in trials:
        assert len({(name, target) for name, target, _, _ in trial}) == 1
        target = trial[0][1]
        assert len({category for _, _, category, _ in trial}) == OPTIONS  # so no foil is of the target's category,
        assert len({image for *_, image in trial}) == OPTIONS  # and no image both target and foil
        assert sum(category == target for _, _, category, _ in trial) == 1
        assert all(image in images[category] for _, _, category, image in trial)
    assert set(Counter(trial[0][1] for trial in trials).values()) == {per_category}
    foils = Counter(category for trial in trials for _, target, category, _ in trial if category != target)
    assert set(foils.values()) == {3 * per_category}
    targets = Counter(image for trial in trials for _, target, category, image in trial if category == target)
    for category, names in images.items():
        used = [targets[name] for name in names]
        assert max(used) - min(used) <= 1, category
    assert trials == trials_of(sample_trials(images, per_category, seed))


def test_sample_trials_depends_on_seed_and_varies_target_position():
    images = {category: [f"{category}/{n}" for n in range(9)] for category in CATEGORIES}
    trials = trials_of(sample_trials(images, 80, 0))
    assert trials != trials_of(sample_trials(images, 80, 1))
    places = Counter([category for _, _, category, _ in trial].index(trial[0][1]) for trial in trials)
    assert set(places) == set(range(OPTIONS))
    assert min(places.values()) > 60  # of 400; 100 expected, with a standard deviation of 8.7


@pytest.fixture
def folder(tmp_path, draw_jpeg):
    seed = 0
    for category in (*CATEGORIES, *UNUSED):
        (tmp_path / "in" / category).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "in" / category / f"{n}.jpg").write_bytes(draw_jpeg(seed))
            seed += 1
    return tmp_path / "in"


def test_labeled_s_builds_list_that_benchmark_reads(folder, tmp_path):
    out = tmp_path / "out"
    main(["benchmark", "build", "labeled-s", "--category_folders", str(folder), "--out", str(out)])
    trials = LabeledS(out / "labeled_s.csv").read(out / "labeled_s.csv")
    assert len(trials) == 100 * len(CATEGORIES)
    assert {trial.category for trial in trials} == set(CATEGORIES)
    for trial in trials:
        right = trial.options[trial.answer]
        assert right[0].split("/")[1] == trial.category
        assert all(
            (out / image).read_bytes() == (folder.parent / "in" / image[10:]).read_bytes() for image, _ in trial.options
        )
    before = (out / "labeled_s.csv").read_bytes()
    labeled_s(folder, out)  # already complete
    assert (out / "labeled_s.csv").read_bytes() == before
    with pytest.raises(UserError, match="different arguments: seed"):
        labeled_s(folder, out, seed=1)
    with pytest.raises(UserError, match="different arguments: licensed"):
        labeled_s(folder, out, licensed=False)


def test_labeled_s_leaves_out_unusable_images(folder, tmp_path, capsys):
    (folder / "cat" / "0.jpg").write_bytes((folder / "dog" / "0.jpg").read_bytes())
    (folder / "cup" / "0.jpg").write_bytes(b"no image")
    (folder / "hat" / "1.jpg").write_bytes((folder / "hat" / "0.jpg").read_bytes())
    labeled_s(folder, tmp_path / "out")
    used = {path.relative_to(tmp_path / "out" / "labeled_s").as_posix() for path in (tmp_path / "out").rglob("*.jpg")}
    assert used == {
        *(f"ball/{n}.jpg" for n in range(3)),
        "cat/1.jpg",
        "cat/2.jpg",
        "cup/1.jpg",
        "cup/2.jpg",
        "dog/1.jpg",
        "dog/2.jpg",
        "hat/0.jpg",
        "hat/2.jpg",
    }
    said = capsys.readouterr().out
    assert "2  occurs in two categories" in said
    assert "1  cannot be opened" in said
    assert "1  identical file" in said


def test_labeled_s_reports_mistakes(folder, tmp_path):
    with pytest.raises(UserError, match=r"contains 3 categories with images; a trial needs 4"):
        labeled_s(folder, tmp_path / "out", exclude=("ball", "cat", *UNUSED))
    for path in (folder / "ball").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"ball: no usable image"):
        labeled_s(folder, tmp_path / "out")
    with pytest.raises(UserError, match="not a folder"):
        labeled_s(folder / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_columns_equal_those_of_benchmarks():
    assert LABELED_COLUMNS == object_trials.COLUMNS
    assert VTWT_COLUMNS[:3] == vtwt.COLUMNS
    assert WINOGROUND_COLUMNS == winoground.COLUMNS


def test_labeled_s_stores_images_upright_without_place(folder, tmp_path, draw_jpeg):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated
    exif.get_ifd(0x8825)[29] = "GPS SECRET"
    for number in range(3):
        image = Image.open(io.BytesIO(draw_jpeg(number))).resize((40, 20))
        image.save(folder / "cat" / f"{number}.jpg", exif=exif)
        image.save(folder / "dog" / f"{number}.jpg", exif=b"Exif\0\0GPS SECRET")
    labeled_s(folder, tmp_path / "out")
    written = [path for path in (tmp_path / "out" / "labeled_s").rglob("*.jpg") if path.parent.name in ("cat", "dog")]
    assert len(written) == 6
    for path in written:
        assert b"GPS SECRET" not in path.read_bytes()
        assert Image.open(path).size == ((20, 40) if path.parent.name == "cat" else (40, 20))
