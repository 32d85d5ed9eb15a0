"""The paper's numbers (Wang et al., ICCV 2025, arXiv 2504.09426), and what its rows are called here."""

from __future__ import annotations

# Row -> test -> value; tests that the paper does not give for a row are left out. Its METEOR is NLTK's.
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
CONTRASTIVE, GENERATIVE, LARGER = "CVCL", "BabyLLaVA-GPT2", "BabyLLaVA-Llama"
MIXES = ("filtered", "filtered-aug", "filtered-random", "aug-only")


def paper_value(row: str, benchmark: str, measure: str) -> float | None:
    """What the paper reports; None where it reports nothing that compares."""
    if measure == "meteor_15":  # the authors used NLTK's METEOR
        return None
    return NUMBERS.get(row, {}).get(benchmark)


def mix_of(row: str) -> str | None:
    """The training mix that a row's name ends with."""
    found = [mix for mix in MIXES if row.endswith(f"-{mix}")]
    return max(found, key=len, default=None)


def place_of(row: str) -> tuple[int, int]:
    """Where a row stands among others, in the paper's order; what it does not have comes last."""
    models, mix = (CONTRASTIVE, GENERATIVE, LARGER), mix_of(row)
    model = model_of(row)
    return models.index(model) if model in models else len(models), MIXES.index(mix) if mix else len(MIXES)


def model_of(row: str) -> str:
    """A row's name without its mix."""
    mix = mix_of(row)
    return row.removesuffix(f"-{mix}") if mix else row
