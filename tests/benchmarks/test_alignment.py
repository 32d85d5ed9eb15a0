"""Alignment of mean images and words, on pictures whose color is their category."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from babyvlm.__main__ import main
from babyvlm.benchmarks import Alignment
from babyvlm.benchmarks.alignment import linearized_cosine
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.errors import UserError
from babyvlm.report.alignment import alignment_charts, positions
from babyvlm.report.runs import Run, find_rows
from support.scorers import THINGS, Constant, Noise, Oracle

COUNT = len(THINGS)


class Knowing(Oracle):
    """Embeds a picture, and the word for it, in the same direction of a space with one for each thing."""

    step = 0  # to the direction of a word

    def embed_images(self, images_BCHW):
        seen = [list(self.seen(image).values()) for image in images_BCHW]
        return torch.tensor(seen, dtype=torch.float64) + 1e-9

    def embed_texts(self, texts):
        return torch.eye(COUNT)[[(THINGS.index(text) + self.step) % COUNT for text in texts]]


class Wrong(Knowing):
    """Takes every thing for its neighbor."""

    step = 1


class Same(Knowing):
    """Everything is alike."""

    def embed_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), COUNT)

    def embed_texts(self, texts):
        return torch.ones(len(texts), COUNT)


class Blind(Knowing):
    """Tells words apart, but not pictures."""

    def embed_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), COUNT)


class Random(Noise):
    """Every file, and every word, has a direction of its own."""

    def embed_images(self, images_BCHW):
        return torch.randn(len(images_BCHW), 400, generator=self.generator)

    def embed_texts(self, texts):
        return torch.randn(len(texts), 400, generator=self.generator)


def test_scorers_reach_what_they_know(things):
    benchmark = Alignment(things)
    oracle = evaluate(Knowing(), benchmark)
    assert oracle.means() == pytest.approx({"cosine": 1, "contrast": 1})
    # Without seeing, and with other images, a word is no closer than any other.
    assert oracle.means("blank")["contrast"] < 0.01
    assert oracle.means("shuffled")["contrast"] < 0.6
    assert evaluate(Wrong(), benchmark).means() == pytest.approx({"cosine": 0, "contrast": -0.25}, abs=1e-6)
    constant = evaluate(Same(), benchmark, controls=False)
    assert constant.means() == pytest.approx({"cosine": 1, "contrast": 0})
    floors = json.loads(constant.facts["floors"])
    assert {name: floors[name]["constant"] for name in floors} == pytest.approx(constant.means(), abs=1e-9)
    blind = evaluate(Blind(), benchmark, controls=False).means()
    assert blind == pytest.approx({"cosine": COUNT**-0.5, "contrast": 0}, abs=1e-6)
    noise = evaluate(Random(), benchmark, controls=False).means()
    assert noise == pytest.approx({"cosine": 0, "contrast": 0}, abs=4 * (COUNT * 400) ** -0.5)
    for model in (object(), Constant()):  # embeds no words
        with pytest.raises(UserError, match="lacks a method that alignment needs"):
            evaluate(model, benchmark)


def test_credits_are_measure_and_its_influence(things):
    """Against the definition, computed from the embeddings of a random model."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(3 * 18 * 18, 7, generator=draw)
    words = dict(zip(THINGS, torch.randn(COUNT, 7, generator=draw, dtype=torch.float64), strict=True))

    class Model(Oracle):
        def embed_images(self, images_BCHW):
            return (images_BCHW.flatten(1) / 255) @ weight

        def embed_texts(self, texts):
            return torch.stack([words[text] for text in texts])

    model, benchmark = Model(), Alignment(things)
    result = evaluate(model, benchmark, controls=False)
    recorded = json.loads(result.facts["cosines"])
    assert recorded["categories"] == sorted(THINGS)
    normalize = torch.nn.functional.normalize
    unit = {}
    for trial in benchmark.load()[0]:
        vector = model.embed_images(model.preprocess(_open(things / trial.item))[None]).double()
        unit.setdefault(trial.category, []).append(normalize(vector, dim=-1)[0])
    for place, name in enumerate(sorted(THINGS)):
        mean = normalize(torch.stack(unit[name]).mean(0), dim=0)
        cosines = {other: float(mean @ normalize(words[other], dim=0)) for other in THINGS}
        own = {one.measure: [] for one in result.results}
        for one in result.results:
            if one.category == name:
                own[one.measure].append(one.credit)
        assert np.mean(own["cosine"]) == pytest.approx(cosines[name], abs=1e-5)
        others = [cosine for other, cosine in cosines.items() if other != name]
        assert np.mean(own["contrast"]) == pytest.approx(cosines[name] - np.mean(others), abs=1e-5)
        assert recorded["cosines"][place][COUNT:] == pytest.approx([cosines[one] for one in sorted(THINGS)], abs=1e-5)


def _open(path):
    from babyvlm.io.images import open_rgb

    return open_rgb(path)


def test_variance_of_credits_is_that_of_the_cosine():
    """Standard error of the mean credit against the spread of the cosine over new samples of pictures."""
    rng = np.random.default_rng(0)
    center, word = rng.normal(size=5), rng.normal(size=5)
    word /= np.linalg.norm(word)

    def sample():
        images = center + rng.normal(size=(60, 5))
        return images / np.linalg.norm(images, axis=1, keepdims=True)

    draws = [linearized_cosine(sample(), word) for _ in range(400)]
    spread = np.std([draw.mean() for draw in draws])
    assert np.mean([draw.std(ddof=1) / 60**0.5 for draw in draws]) == pytest.approx(spread, rel=0.12)
    assert linearized_cosine(np.array([[1.0, 0.0], [-1.0, 0.0]]), word[:2]).tolist() == [0, 0]


@pytest.fixture(scope="module")
def logs(tmp_path_factory, things):
    folder = tmp_path_factory.mktemp("alignment") / "logs"
    for row, model in (("CVCL-filtered", Knowing()), ("CVCL-filtered-aug", Wrong()), ("CVCL-aug-only", Random())):
        result = evaluate(model, Alignment(things, variant="things"))
        result.save(folder / row / "version_0" / "results" / "alignment_things-test.parquet")
        (folder / row / "version_0" / "config.yaml").write_text("seed_everything: 0\n")
    return folder


def test_report_has_table_with_ranks_and_figure(logs, tmp_path, capsys):
    main(["report", str(logs), "--details", "true", "--out", str(tmp_path / "report"), "--paper_figures", "true"])
    assert "rank" in capsys.readouterr().out
    text = (tmp_path / "report" / "report.md").read_text()
    lines = text.partition("### Alignment things by object category")[2].strip().splitlines()[:10]
    heading, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    columns = dict(zip(heading, zip(*rows, strict=True), strict=True))
    assert columns["object category"] == ("seeds", "worlds", "tested step", *sorted(THINGS))
    assert columns["items"] == columns["images"] == ("-", "-", "-", *["3"] * len(THINGS))
    assert all(cell.endswith("rank 1") for cell in columns["CVCL-filtered"][3:])
    assert not any(cell.endswith("rank 1") for cell in columns["CVCL-filtered-aug"][3:])
    figures = tmp_path / "report" / "figures"
    names = {f"alignment-alignment_things{part}" for part in (".svg", "-1-column-2.svg", "-2-columns.pdf")}
    assert names < {file.name for file in figures.iterdir()}
    assert "figures/alignment-alignment_things.svg" in text
    assert "5 of 5 mean images are closest to their word" in (tmp_path / "report" / "report.html").read_text()


def test_figure_is_the_same_each_time_and_brings_pairs_together(logs):
    rows = find_rows(logs)[0]
    (chart,), (again,) = alignment_charts(rows), alignment_charts(rows)
    assert chart.wide == again.wide
    found = next(row for row in rows if row.name == "CVCL-filtered").runs[0].results["alignment_things"].cosines
    image_C2, word_C2 = np.split(positions(found), 2)
    nearest = np.linalg.norm(image_C2[:, None] - word_C2, axis=2).argmin(1)
    assert nearest.tolist() == list(range(COUNT))


def test_models_are_compared_by_picture(logs, capsys):
    main(["compare", str(logs / "CVCL-filtered"), str(logs / "CVCL-filtered-aug")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "Alignment" in line]
    assert len(lines) == 2
    assert all("+1" in line and "permutation" in line for line in lines)


@pytest.mark.parametrize(
    "record", ["[1]", '{"categories": ["a"], "cosines": [[1]]}', '{"categories": ["a"], "cosines": [[2, 0], [0, 1]]}']
)
def test_damaged_record_is_user_error(logs, tmp_path, record):
    table = pq.read_table(logs / "CVCL-filtered/version_0/results/alignment_things-test.parquet")
    folder = tmp_path / "CVCL-filtered" / "version_0"
    (folder / "results").mkdir(parents=True)
    facts = {**table.schema.metadata, b"cosines": record.encode()}
    pq.write_table(table.replace_schema_metadata(facts), folder / "results" / "alignment_things-test.parquet")
    with pytest.raises(UserError, match="metadata 'cosines' of alignment_things"):
        _ = Run(folder).results


def test_pictures_are_those_of_test_trials(things, tmp_path):
    heading = "trial_id,target_category,real_category,image,half"
    cells = [("a", "ball", "dev"), ("a", "cup", "dev"), ("b", "ball", "test"), ("b", "dog", "test")]
    rows = [f"{item},ball,{name},{name}/{name}{0 if name == 'ball' else 1}.png,{half}" for item, name, half in cells]
    (tmp_path / "list.csv").write_text("\n".join([heading, *rows]))
    trials = Alignment(tmp_path / "list.csv", things).load()[0]
    assert {trial.category: trial.split for trial in trials} == {"ball": "test", "cup": "dev", "dog": "test"}
    (tmp_path / "list.csv").write_text("\n".join([heading, *rows[:2]]))
    with pytest.raises(UserError, match="has pictures of 0 category to test"):
        Alignment(tmp_path / "list.csv", things).load()
    chosen = Alignment(things, categories=["ball", "cup"])
    assert {trial.category for trial in chosen.load()[0]} == {"ball", "cup"}
    assert chosen.facts() == {"options": "2 categories"}
