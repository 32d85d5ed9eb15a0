"""Linear probe of frozen backbones on the Labeled-S frames, compared with random backbones and raw pixels.

    python perf/probe.py [WEIGHTS ...]

Without weights, the shipped DINO backbone is probed. Logistic regression on pooled, standardized features is fitted on
the dev split of Labeled-S, with an L2 penalty selected there by 5-fold cross-validation, and evaluated on the test
split. None of these frames was used in any training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import make_parser
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from babyvlm.benchmarks.trials import read_rows, split_of
from babyvlm.data.transforms import eval_transform
from babyvlm.io.images import open_rgb
from babyvlm.models.networks.vision import VisionEncoder

PENALTIES = [10.0**power for power in range(-5, 1)]
FOLDS = 5
Labeled = tuple[Tensor, Tensor]  # images_NCHW or features_ND, category_N


def read_frames(trials: Path, image_size: int) -> dict[str, Labeled]:
    """Return the distinct frames of a Labeled-S list and their categories, by split."""
    rows = {row["image"]: row for row in read_rows(trials, ["real_category", "image"])}
    categories = sorted({row["real_category"] for row in rows.values()})
    transform, splits = eval_transform(image_size), {}
    for split in ("dev", "test"):
        chosen = [(image, row) for image, row in sorted(rows.items()) if split_of(row, image, 0.5, trials) == split]
        images_NCHW = torch.stack([transform(open_rgb(trials.parent / image)) for image, _ in chosen])
        splits[split] = images_NCHW, torch.tensor([categories.index(row["real_category"]) for _, row in chosen])
    return splits


def fit(features_ND: Tensor, category_N: Tensor, penalty: float) -> Tensor:
    """Return the (D + 1, categories) weights of the logistic regression; the last row is the bias."""
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


def probe(dev: Labeled, test: Labeled) -> float:
    """Return the accuracy on ``test`` of a probe fitted on ``dev``."""
    mean, std = dev[0].mean(0), dev[0].std(0).clamp(min=1e-6)
    (x, y), (x_test, y_test) = (((features - mean) / std, category) for features, category in (dev, test))
    fold = torch.arange(len(y)) % FOLDS  # frames are sorted by category, so every fold has all categories

    def across_folds(penalty: float) -> float:
        return sum(accuracy(fit(x[fold != f], y[fold != f], penalty), x[fold == f], y[fold == f]) for f in range(FOLDS))

    return accuracy(fit(x, y, max(PENALTIES, key=across_folds)), x_test, y_test)


def encode(encoder: VisionEncoder, images_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(images_BCHW) for images_BCHW in images_NCHW.split(64)])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("weights", nargs="*", default=["playroom"], help="as `weights` of VisionEncoder")
    parser.add_argument("--trials", type=Path, default=Path("data/playroom/world/trials/labeled_s.csv"))
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--num_random", type=int, default=3, help="number of random backbones to compare with")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    options = {"channels": [32, 64, 128, 256], "stem_width": 16} if args.backbone == "resnet10t" else {}
    splits = read_frames(args.trials, args.image_size)

    def report(name: str, features: dict[str, Tensor]) -> float:
        score = probe(*((features[split], splits[split][1]) for split in ("dev", "test")))
        print(f"{name:<40} {features['dev'].shape[1]:>5} features  accuracy {score:.3f}", flush=True)
        return score

    num_dev, num_test = len(splits["dev"][1]), len(splits["test"][1])
    chance = 1 / (int(splits["test"][1].max()) + 1)
    print(f"linear probe: fitted on {num_dev} frames, evaluated on {num_test}; chance {chance:.3f}")
    pixels = {split: avg_pool2d(x, x.shape[-1] // 16).flatten(1) for split, (x, _) in splits.items()}
    report("raw pixels, 16 x 16", pixels)
    random_scores = []
    for seed in range(args.num_random):
        torch.manual_seed(seed)
        encoder = VisionEncoder(args.backbone, options).eval()
        features = {split: encode(encoder, x) for split, (x, _) in splits.items()}
        random_scores.append(report(f"random backbone, seed {seed}", features))
    for weights in args.weights:
        encoder = VisionEncoder(args.backbone, options, weights=weights).eval()
        score = report(f"backbone {weights}", {split: encode(encoder, x) for split, (x, _) in splits.items()})
        if random_scores:
            print(
                f"{weights} / mean of random backbones: accuracy {score * len(random_scores) / sum(random_scores):.2f}"
            )


if __name__ == "__main__":
    main()
