"""Names of rows: the model and the training mix that they consist of."""

from pathlib import Path

import pytest
import yaml

from babyvlm.report.figures import DASHES
from babyvlm.report.paper import MIXES, base_of, mix_of, model_of, paper_order

CONFIGS = Path(__file__).parents[2] / "configs"


def matrix_rows():
    """Return (model, mix) of every row of every matrix in configs."""
    found = set()
    for file in CONFIGS.glob("*/*.yaml"):
        models = yaml.safe_load(file.read_text()).get("models") or {}
        found |= {(model, mix) for model, entry in models.items() for mix in entry["mixes"]}
    return sorted(found)


def test_matrix_rows_cover_the_study():
    assert ("CVCL-frozen-epochs", "filtered-random-rewritten") in matrix_rows()


@pytest.mark.parametrize(("model", "mix"), matrix_rows())
def test_mix_of_knows_every_mix_of_a_matrix(model, mix):
    assert (model_of(f"{model}-{mix}"), mix_of(f"{model}-{mix}")) == (model, mix)
    assert (CONFIGS / "mix" / f"{mix}.yaml").is_file()


def test_each_mix_has_a_line_style_of_its_own():
    assert len(set(DASHES)) == len(DASHES) == len(MIXES)


def test_paper_order_sorts_a_model_by_mix():
    rows = [f"CVCL-{mix}" for mix in MIXES]
    assert sorted(reversed(rows), key=paper_order) == rows


def test_paper_order_puts_variants_after_their_model():
    models = ["CVCL", "CVCL-epochs", "CVCL-frozen", "CVCL-lstm", "BabyLLaVA-GPT2", "BabyLLaVA-GPT2-x4"]
    models += ["BabyLLaVA-GPT2-x16", "BabyLLaVA-Llama", "CVCLike"]
    rows = [f"{model}-{mix}" for model in models for mix in ("filtered", "filtered-aug")]
    assert sorted(reversed(rows), key=paper_order) == rows
    assert base_of("CVCLike") is None
