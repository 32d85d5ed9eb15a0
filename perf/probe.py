"""What frozen trunks know of the labelled frames: a linear probe, beside a random trunk and raw pixels.

`python perf/probe.py [WEIGHTS ...]`; without weights the shipped DINO backbone. Logistic regression on pooled,
standardised features of the frames of Labeled-S: fitted on its dev half, its L2 penalty chosen there by 5 folds,
measured on the test half. Nothing of it was seen in any training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from babyvlm.benchmarks.trials import half_of, read_rows
from babyvlm.data.transforms import eval_transform
from babyvlm.io.images import open_rgb
from babyvlm.models.networks.vision import VisionEncoder

PENALTIES = [10.0**power for power in range(-5, 1)]
FOLDS = 5
Labelled = tuple[Tensor, Tensor]  # images_NCHW or features_ND, category_N


def read_frames(trials: Path, image_size: int) -> dict[str, Labelled]:
    """The distinct frames of a Labeled-S list and their categories, by half."""
    rows = {row["image"]: row for row in read_rows(trials, ["real_category", "image"])}
    categories = sorted({row["real_category"] for row in rows.values()})
    transform, halves = eval_transform(image_size), {}
    for half in ("dev", "test"):
        mine = [(image, row) for image, row in sorted(rows.items()) if half_of(row, image, 0.5, trials) == half]
        images_NCHW = torch.stack([transform(open_rgb(trials.parent / image)) for image, _ in mine])
        halves[half] = images_NCHW, torch.tensor([categories.index(row["real_category"]) for _, row in mine])
    return halves


def fit(features_ND: Tensor, category_N: Tensor, penalty: float) -> Tensor:
    """(D + 1, categories) weights of the logistic regression, the last row its bias."""
    weight = torch.zeros(features_ND.shape[1] + 1, int(category_N.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(features_ND @ weight[:-1] + weight[-1], category_N)
        loss = loss + penalty * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def accuracy(weight: Tensor, features_ND: Tensor, category_N: Tensor) -> float:
    return ((features_ND @ weight[:-1] + weight[-1]).argmax(1) == category_N).float().mean().item()


def probe(dev: Labelled, test: Labelled) -> float:
    """Accuracy on ``test`` of a probe that saw ``dev`` only."""
    mean, std = dev[0].mean(0), dev[0].std(0).clamp(min=1e-6)
    (x, y), (x_test, y_test) = (((features - mean) / std, category) for features, category in (dev, test))
    fold = torch.arange(len(y)) % FOLDS  # frames of a category stand together, so that folds have all alike

    def across_folds(penalty: float) -> float:
        return sum(accuracy(fit(x[fold != f], y[fold != f], penalty), x[fold == f], y[fold == f]) for f in range(FOLDS))

    return accuracy(fit(x, y, max(PENALTIES, key=across_folds)), x_test, y_test)


def encode(encoder: VisionEncoder, images_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(images_BCHW) for images_BCHW in images_NCHW.split(64)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", default=["playroom"], help="as VisionEncoder's `weights`")
    parser.add_argument("--trials", type=Path, default=Path("data/playroom/world/trials/labeled_s.csv"))
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--random-seeds", type=int, default=3)
    given = parser.parse_args()
    options = {"channels": [32, 64, 128, 256], "stem_width": 16} if given.backbone == "resnet10t" else {}
    halves = read_frames(given.trials, given.image_size)

    def report(name: str, features: dict[str, Tensor]) -> None:
        score = probe(*((features[half], halves[half][1]) for half in ("dev", "test")))
        print(f"{name:<40} {features['dev'].shape[1]:>5} wide  {score:.3f}", flush=True)

    frames, categories = len(halves["test"][1]), int(halves["test"][1].max()) + 1
    print(f"linear probe: {len(halves['dev'][1])} frames fit it, {frames} measure it; chance {1 / categories:.3f}")
    report("raw pixels, 16 x 16", {h: avg_pool2d(x, x.shape[-1] // 16).flatten(1) for h, (x, _) in halves.items()})
    for seed in range(given.random_seeds):
        torch.manual_seed(seed)
        encoder = VisionEncoder(given.backbone, options).eval()
        report(f"random trunk, seed {seed}", {half: encode(encoder, x) for half, (x, _) in halves.items()})
    for weights in given.weights:
        encoder = VisionEncoder(given.backbone, options, weights=weights).eval()
        report(f"trunk of {weights}", {half: encode(encoder, x) for half, (x, _) in halves.items()})


if __name__ == "__main__":
    main()
