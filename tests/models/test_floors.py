"""Test the floors: ridge regression from colors and from blurred pixels to words."""

import numpy as np
import pytest
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.errors import UserError
from babyvlm.models.floors import ImageStatistics, WordRegression, image_features


def patch(color, rng):
    return Image.fromarray((np.full((16, 16, 3), color) + rng.integers(0, 40, (16, 16, 3))).astype(np.uint8))


@pytest.mark.parametrize("features", ["colors", "pixels"])
def test_regression_finds_a_color_that_goes_with_a_word(features):
    rng = np.random.default_rng(0)
    colors = {"ball": (200, 20, 20), "cup": (20, 200, 20), "dog": (20, 20, 200)}
    seen = [(patch(color, rng), f"look , a {word} !") for word, color in colors.items() for _ in range(8)]
    regression = WordRegression(np.stack([image_features(image, features) for image, _ in seen]), [t for _, t in seen])
    shown = np.stack([image_features(patch(color, rng), features) for color in colors.values()])
    scores = regression.score(shown, [f"the {word}" for word in colors])
    assert (scores.argmax(1) == range(3)).all()
    assert (regression.score(shown, ["zebra"]) == 0).all()


def test_ridge_is_the_one_with_the_least_leave_one_out_error():
    from babyvlm.models.floors import _RIDGES, _ridge

    rng = np.random.default_rng(1)
    images = rng.normal(size=(30, 12)).astype(np.float32)
    images -= images.mean(0)
    said = images[:, :2] * 0.7 + rng.normal(size=(30, 2))
    said -= said.mean(0)

    def fit(rows, ridge):  # the normal equations, with an intercept
        x, y = images[rows], said[rows]
        mean = x.mean(0)
        return mean, y.mean(0), np.linalg.solve((x - mean).T @ (x - mean) + ridge * np.eye(12), (x - mean).T @ (y))

    errors = []
    for ridge in _RIDGES:
        left_out = []
        for row in range(30):
            mean, level, weights = fit([other for other in range(30) if other != row], ridge)
            left_out.append((said[row] - level - (images[row] - mean) @ weights) ** 2)
        errors.append(np.mean(left_out))
    best = _RIDGES[int(np.argmin(errors))]
    np.testing.assert_allclose(_ridge(images, said.astype(np.float32)), fit(range(30), best)[2], atol=1e-4)


def test_image_statistics_scores_a_benchmark(tmp_path, tiny_store):
    store = tiny_store(["red ball"] * 8 + ["blue cup"] * 8, splits=["train"] * 16)
    model = ImageStatistics(store.path, "pixels")
    batch = model.preprocess(Image.new("RGB", (20, 20))).expand(3, -1)
    assert model.score(batch, ["red ball", "cup"]).shape == (3, 2)
    with pytest.raises(UserError, match="has no training pairs"):
        ImageStatistics(tiny_store(["red ball"] * 4, splits=["val"] * 4, path=tmp_path / "val").path)


def test_floors_are_rows_of_the_tables(capsys):
    with pytest.raises(SystemExit):
        main(["test", "--config", "configs/eval/color-histogram.yaml", "--print_config"])
    assert "floors.ImageStatistics" in capsys.readouterr().out
