"""Results of the paper (Wang et al., ICCV 2025, arXiv 2504.09426) and the names of its rows in this project."""

from __future__ import annotations

# Row -> benchmark -> value. Benchmarks that the paper does not report for a row are left out. Its METEOR is NLTK's.
NUMBERS: dict[str, dict[str, float]] = {
    "CLIP-large": {"labeled_s": 0.710, "vtwt": 0.863, "baby_winoground": 0.674},
    "LLaVA-v1.5-7B": {"labeled_s": 0.740, "vtwt": 0.785, "baby_winoground": 0.427, "caption": 0.166},
    "CVCL-filtered": {"labeled_s": 0.609, "vtwt": 0.649, "baby_winoground": 0.093},
    "CVCL-filtered-aug": {"labeled_s": 0.581, "vtwt": 0.702, "baby_winoground": 0.203},
    "CVCL-filtered-random": {"labeled_s": 0.602, "vtwt": 0.684, "baby_winoground": 0.107},
    "BabyLLaVA-GPT2-filtered": {"labeled_s": 0.420, "vtwt": 0.625, "baby_winoground": 0.066, "caption": 0.138},
    "BabyLLaVA-GPT2-filtered-aug": {"labeled_s": 0.536, "vtwt": 0.693, "baby_winoground": 0.082},
    "BabyLLaVA-GPT2-aug-only": {"labeled_s": 0.500, "vtwt": 0.624, "baby_winoground": 0.063},
    "BabyLLaVA-Llama-filtered": {"labeled_s": 0.420, "vtwt": 0.603, "baby_winoground": 0.052, "caption": 0.129},
}
# BabyCL (arXiv 2606.05115), on the same lists: its "offline CVCL", which is CVCL as first published, trained anew.
BABYCL: dict[str, dict[str, float]] = {
    "CVCL-original": {"labeled_s": 0.5731, "vtwt": 0.6308, "baby_winoground": 0.1151},
}
BABYCL_SEEDS = 0.0113  # spread of its Labeled-S over seeds, as printed
CONTRASTIVE, GENERATIVE, LARGER = "CVCL", "BabyLLaVA-GPT2", "BabyLLaVA-Llama"
MODELS = (CONTRASTIVE, GENERATIVE, LARGER)
MIXES = (  # of the paper, and those that tell matching and rewriting apart
    "filtered",
    "filtered-aug",
    "filtered-aug-raw",
    "filtered-random",
    "filtered-random-rewritten",
    "aug-only",
)
# Variants of a model in the study, as the end of its name: equal epochs, frozen or fine-tuned trunk, size of the
# language model.
VARIANTS = ("", "epochs", "frozen", "frozen-epochs", "tuned", "tuned-epochs", "x4", "x16")


def paper_value(row: str, benchmark: str, measure: str) -> float | None:
    """Return the paper's value; None where it reports no comparable value."""
    if measure == "meteor_15":  # the authors used NLTK's METEOR
        return None
    return NUMBERS.get(row, {}).get(benchmark)


def mix_of(row: str) -> str | None:
    """Return the training mix that a row's name ends with."""
    found = [mix for mix in MIXES if row.endswith(f"-{mix}")]
    return max(found, key=len, default=None)


def model_of(row: str) -> str:
    """Return a row's name without its mix."""
    mix = mix_of(row)
    return row.removesuffix(f"-{mix}") if mix else row


def base_of(model: str) -> str | None:
    """Return the model of the paper that a model is a variant of: ``CVCL`` for ``CVCL-frozen``."""
    return next((base for base in MODELS if f"{model}-".startswith(f"{base}-")), None)


def paper_order(row: str) -> tuple[int, int, bool, str, int]:
    """Return a sort key for the paper's order of rows, in which variants follow their model.

    Other models come last, those without a mix after those with one.
    """
    mix, model = mix_of(row), model_of(row)
    base = base_of(model)
    variant = "-" if base is None else model.removeprefix(base).removeprefix("-")
    return (
        len(MODELS) if base is None else MODELS.index(base),
        VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS),
        mix is None,
        model,
        MIXES.index(mix) if mix else len(MIXES),
    )
