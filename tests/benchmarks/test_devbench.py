"""DevBench: divergence from people, similarity of representations, and word associations."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.special import softmax
from scipy.stats import entropy, spearmanr

from babyvlm.benchmarks import DevBenchChoice, DevBenchSimilarity, DevBenchWordAssociation
from babyvlm.benchmarks.devbench import correlation_credits, fitted_divergence, read_matrix
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.benchmarks.intervals import mean_interval
from babyvlm.errors import UserError
from babyvlm.report.runs import find_rows
from babyvlm.report.tables import suite_tables
from support.scorers import Constant, Noise, Oracle

RNG = np.random.default_rng(0)


def test_fitted_divergence_equals_search_over_temperatures():
    for options in (2, 4):
        wanted_NO, score_NO = RNG.dirichlet(np.ones(options), 30), RNG.normal(size=(30, options))
        found_N, beta = fitted_divergence(wanted_NO, score_NO)
        grid = np.linspace(0.025, 40, 4000)
        shares_GNO = softmax(grid[:, None, None] * score_NO, axis=2)
        means = entropy(wanted_NO[None], shares_GNO, axis=2).mean(1)
        assert min(means) - 1e-5 < found_N.mean() < min(means) + 1e-6
        assert beta == pytest.approx(grid[int(np.argmin(means))], abs=0.02)
        np.testing.assert_allclose(found_N, entropy(wanted_NO, softmax(beta * score_NO, axis=1), axis=1), atol=1e-9)


def test_fitted_divergence_is_zero_for_the_same_shares_and_ignores_missing_options():
    shares_NO = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        scores = np.maximum(np.log(shares_NO), -50) / 3
    found_N, beta = fitted_divergence(shares_NO, scores)
    assert beta == pytest.approx(3, abs=0.01)
    assert found_N.max() < 1e-4
    wide = fitted_divergence(
        np.pad(shares_NO, ((0, 0), (0, 1))), np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf)
    )
    np.testing.assert_allclose(wide[0], found_N)


def symmetric(count):
    half = RNG.normal(size=(count, count))
    return half + half.T


def test_correlation_credits_are_a_jackknife_of_spearman():
    model, people = symmetric(12), symmetric(12)
    people[3, 5] = people[5, 3] = np.nan  # a pair that was not compared
    credits = correlation_credits(model, people)
    row, column = np.tril_indices(12, -1)
    known = np.isfinite(people[row, column])
    row, column = row[known], column[known]
    whole = spearmanr(model[row, column], people[row, column]).statistic
    assert credits.mean() == pytest.approx(whole)
    x, y = (np.argsort(np.argsort(one[row, column])) for one in (model, people))
    without = [np.corrcoef(x[keep], y[keep])[0, 1] for i in range(12) for keep in [(row != i) & (column != i)]]
    variance = 11 / 12 * np.sum((np.array(without) - np.mean(without)) ** 2)
    assert credits.var(ddof=1) / 12 == pytest.approx(variance)
    assert correlation_credits(model, model).mean() == pytest.approx(1)
    assert correlation_credits(model, -model).mean() == pytest.approx(-1)
    np.testing.assert_allclose(correlation_credits(np.ones((5, 5)), symmetric(5)), 0)
    with pytest.raises(UserError, match="2 items"):
        correlation_credits(np.eye(2), np.eye(2))


def test_mean_interval_of_other_credits_is_students():
    credits = RNG.normal(2, 1, 40)
    low, high = mean_interval(credits)
    half = 2.0227 * credits.std(ddof=1) / 40**0.5  # t with 39 degrees of freedom
    assert (low, high) == pytest.approx((credits.mean() - half, credits.mean() + half), abs=1e-3)
    assert mean_interval(np.array([2.0])) == (-np.inf, np.inf)


def choice(stand_ins, task="lex-lwl"):
    return DevBenchChoice(stand_ins / "devbench", task)


@pytest.mark.parametrize("task", ["lex-lwl", "lex-viz_vocab"])
def test_choices_are_compared_with_each_age(stand_ins, task):
    benchmark = choice(stand_ins, task)
    trials, _ = benchmark.load()
    assert list(benchmark.measures) == ["accuracy", "kl_2", "kl_4", "kl_8"]
    people = benchmark._people["kl_4"]
    own = benchmark.judge_view(trials, [tuple(np.log(np.maximum(people[trial.item], 1e-9))) for trial in trials])
    means = {
        name: np.mean([one.credit for row in own for one in row if one.measure == name]) for name in benchmark.measures
    }
    assert means["kl_4"] < 1e-4 < min(means["kl_2"], means["kl_8"])
    result = evaluate(Constant(), benchmark)
    floors = json.loads(result.facts["floors"])
    right = [people[trial.item][0] for trial in trials]
    assert floors["accuracy"]["people, age 4"] == pytest.approx(np.mean(right))
    uniform = [entropy(people[trial.item], np.full(len(trial.options), 1 / len(trial.options))) for trial in trials]
    assert [result.means()["kl_4"], floors["kl_4"]["constant"]] == pytest.approx([np.mean(uniform)] * 2)
    knows, guesses = (evaluate(one, benchmark, controls=False).means() for one in (Oracle(), Noise()))
    assert knows["kl_8"] < guesses["kl_8"] < floors["kl_8"]["constant"] + 0.01  # at the least beta
    low, high = evaluate(Oracle(), benchmark, controls=False).interval("kl_8")
    assert 0 < low < knows["kl_8"] < high
    assert "kl_8" in str(result)


def test_choices_read_the_layout_of_egobabyvlm_and_partial_ages(stand_ins, tmp_path):
    source = stand_ins / "devbench"
    task = tmp_path / "lex-lwl"
    task.mkdir()
    (task / "images").symlink_to(source / "assets" / "lex-lwl" / "images")
    (task / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + (source / "assets/lex-lwl/manifest.csv").read_bytes())
    (task / "human.csv").write_text("age_bin,prop,trial\n1.5,0.75,3\n1.5,0.5,4\n2,1,3\n")
    benchmark = DevBenchChoice(tmp_path)
    result = evaluate(Oracle(), benchmark, controls=False)
    assert [one.item for one in result.results if one.measure == "kl_1_5"] == [
        trial for trial in items_of(benchmark)[2:4]
    ]
    assert list(benchmark.measures) == ["accuracy", "kl_1_5", "kl_2"]
    assert benchmark.measures["kl_1_5"].title == "KL, age 1.5"


def test_missing_responses_are_left_out_and_ages_are_numbers(stand_ins, tmp_path):
    """A response that is missing is not a share of 0; 4 comes before 10."""
    rows = "trial,age_bin,image1,image2\n1,10,3,1\n2,10,NA,NA\n1,4,,\n2,4,0,2\n3,25,NaN,NaN\n"
    benchmark = with_people(stand_ins, tmp_path, rows)
    benchmark.load()
    assert list(benchmark.measures) == ["accuracy", "kl_4", "kl_10"]
    first, second = items_of(benchmark)[:2]
    assert benchmark._people == {"kl_4": {second: (0, 1)}, "kl_10": {first: (0.75, 0.25)}}
    floors = benchmark.floors(benchmark.load()[0])["accuracy"]
    assert (floors["people, age 4"], floors["people, age 10"]) == (0, 0.75)


def with_people(stand_ins, folder, people):
    """Looking while listening with other responses."""
    (folder / "lex-lwl").mkdir()
    source = stand_ins / "devbench/assets/lex-lwl"
    (folder / "lex-lwl" / "images").symlink_to(source / "images")
    (folder / "lex-lwl" / "manifest.csv").write_text((source / "manifest.csv").read_text())
    (folder / "lex-lwl" / "human.csv").write_text(people)
    return DevBenchChoice(folder)


def items_of(benchmark):
    return [trial.item for trial in benchmark.load()[0]]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ("trial,prop\n99,0.5\n", r"human\.csv, row 2: trial '99' is not a row of the manifest"),
        ("trial,prop\n1,much\n", "prop is 'much', must be a number"),
        ("trial,image1,image2\n1,0,0\n", "the shares of the pictures must be at least 0"),
        ("trial,prop\n1,1.5\n", "the shares of the pictures must be at least 0"),
        ("trial,image1,image2\n1,1,NA\n", "row 2: image2 is '', must be a number"),
        ("trial,image1,picture2\n1,1,0\n", r"human\.csv: no column 'image2'"),
        ("trial,image1,image2\n1,NA,NA\n", r"human\.csv: has no responses"),
        ("trial,age_bin,prop\n1,2,0.5\n1,,0.5\n", "row 3: age_bin is '', must be a number"),
        ("trial,age_bin,prop\n1,2,0.5\n1,2.0,0.9\n", "row 3: trial 1 at age 2 occurs twice"),
        ("trial,prop\n1,0.5\n1,0.5\n", "row 3: trial 1 occurs twice"),
    ],
)
def test_malformed_responses_are_user_errors(stand_ins, tmp_path, people, message):
    with pytest.raises(UserError, match=message):
        with_people(stand_ins, tmp_path, people).load()


def test_manifest_with_an_empty_cell_is_user_error(stand_ins, tmp_path):
    benchmark = with_people(stand_ins, tmp_path, "trial,prop\n1,1\n")
    benchmark.path.write_text("text1,image1,image2,image3\nball,a.png,b.png,\n")
    with pytest.raises(UserError, match="row 2: image3 is empty"):
        benchmark.load()


def test_folder_without_a_task_is_user_error(tmp_path):
    with pytest.raises(UserError, match=r"has no assets/gram-trog/manifest\.csv"):
        DevBenchChoice(tmp_path, "gram-trog")


def similarity(stand_ins, **people):
    return DevBenchSimilarity(stand_ins / "devbench", "sem-viz_obj_cat", people or None)


class Vectors:
    """Embeds a picture by its colors."""

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.resize((2, 2))).copy()).permute(2, 0, 1).float() - 100

    def embed_images(self, images_BCHW):
        return images_BCHW.flatten(1)


def test_similarity_of_categories_and_pictures(stand_ins, tmp_path):
    folder = stand_ins / "devbench/assets/sem-viz_obj_cat"
    by_category = similarity(stand_ins, **{"2": folder / "human-2.csv"})
    result = evaluate(Vectors(), by_category)
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    vectors = np.stack([image_vector(folder / row["image1"]) for row in rows])
    cosines = vectors @ vectors.T
    names = list(dict.fromkeys(row["text1"] for row in rows))
    of = [[place for place, row in enumerate(rows) if row["text1"] == name] for name in names]
    blocks = np.array([[cosines[np.ix_(one, other)].mean() for other in of] for one in of])
    low = np.tril_indices(len(names), -1)
    people = read_matrix(folder / "human-2.csv")
    assert result.mean == pytest.approx(spearmanr(blocks[low], people[low]).statistic)
    assert result.means("blank") == {"rsa_2": pytest.approx(0)}
    assert result.metrics() == {"devbench_sem_viz_obj_cat_test": result.mean}
    assert result.table().num_rows == 3 * len(names)
    shown = {one.item: one.images for one in result.results}
    assert shown == {name: tuple(rows[place]["image1"] for place in own) for name, own in zip(names, of, strict=True)}
    savemat(tmp_path / "own.mat", {"spose_sim": cosines, "other": np.zeros((1, 3))})
    np.save(tmp_path / "own.npy", -cosines)
    matrices = {"adults": tmp_path / "own.mat", "opposite": tmp_path / "own.npy"}
    own = evaluate(Vectors(), similarity(stand_ins, **matrices), controls=False)
    assert own.means() == pytest.approx({"rsa_adults": 1, "rsa_opposite": -1})
    assert own.interval("rsa_adults")[0] > 0.7


def image_vector(path):
    from PIL import Image

    vector = Vectors().preprocess(Image.open(path).convert("RGB")).flatten().double().numpy()
    return vector / np.linalg.norm(vector)


class Words(Noise):
    """Every picture and every word has a direction of its own."""

    def embed_texts(self, texts):
        return torch.randn(len(texts), 200, generator=self.generator)


class Same(Constant):
    """All words are alike, and all pictures."""

    def embed_texts(self, texts):
        return torch.ones(len(texts), 3)


def test_similarity_is_zero_without_knowledge(stand_ins):
    """The interval of a random scorer contains 0; a constant one, and one that sees blank images, have 0."""
    folder = stand_ins / "devbench/assets/sem-viz_obj_cat"
    benchmark = similarity(stand_ins, **{"8": folder / "human-8.csv"})
    assert evaluate(Same(), benchmark, controls=False).mean == pytest.approx(0)
    noise = evaluate(Words(), benchmark, controls=False)
    low, high = noise.interval()
    assert -1 < low < 0 < high < 1  # of five categories
    assert evaluate(Vectors(), benchmark).means("blank")["rsa_8"] == pytest.approx(0)


def test_word_associations_of_scorers_without_knowledge(stand_ins):
    benchmark = DevBenchWordAssociation(stand_ins / "devbench")
    constant = evaluate(Same(), benchmark)
    floors = json.loads(constant.facts["floors"])
    assert constant.means() == pytest.approx({name: one["constant"] for name, one in floors.items()})
    noise = evaluate(Words(), benchmark).means()
    # At the least beta of the fit, 0.025, random cosines still differ a little.
    assert all(0 < value < floors[name]["constant"] + 0.01 for name, value in noise.items())


def test_similarity_needs_a_matrix_that_fits(stand_ins, tmp_path):
    with pytest.raises(UserError, match=r"spose_similarity\.mat: no such file"):
        similarity(stand_ins)
    np.save(tmp_path / "small.npy", np.eye(4))
    with pytest.raises(UserError, match="15 pictures of 5 categories, but the matrix of rsa_x has 4 rows"):
        evaluate(Vectors(), similarity(stand_ins, x=tmp_path / "small.npy"))
    (tmp_path / "wide.csv").write_text("1,2\n")
    with pytest.raises(UserError, match=r"wide\.csv: is not a square matrix"):
        similarity(stand_ins, x=tmp_path / "wide.csv")
    (tmp_path / "names.csv").write_text("a,b\nc,d\n")
    with pytest.raises(UserError, match=r"names\.csv: has no finite number below its diagonal"):
        similarity(stand_ins, x=tmp_path / "names.csv")
    with pytest.raises(UserError, match=r"two of 1\.5, 1 5 have the same name"):
        similarity(stand_ins, **dict.fromkeys(("1.5", "1 5"), tmp_path / "small.npy"))
    (tmp_path / "bad.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match=r"bad\.mat: cannot be read as a matrix"):
        similarity(stand_ins, x=tmp_path / "bad.mat")
    with pytest.raises(UserError, match="lacks a method that devbench_sem_viz_obj_cat needs"):
        evaluate(object(), similarity(stand_ins, **{"2": stand_ins / "devbench/assets/sem-viz_obj_cat/human-2.csv"}))


class Associations:
    """Embeds words such that their cosines with the cue `dog` give the shares of responses at beta 10."""

    def __init__(self, shares):
        self.shares = shares

    def embed_texts(self, texts):
        vectors = torch.zeros(len(texts), len(texts) + 1, dtype=torch.float64)
        for place, text in enumerate(texts):
            cosine = 1.0 if text == "dog" else 0.9 + np.log(self.shares.get(text, 1e-7)) / 10
            vectors[place, 0], vectors[place, place + 1] = cosine, np.sqrt(1 - cosine**2)
        return vectors


def test_word_associations_are_compared_by_age(tmp_path):
    folder = tmp_path / "sem-wat"
    folder.mkdir()
    rows = ["dog,cat,40,,28,", "dog,big_bone,20,,7,", "dog,bark,20,,35,", "cup,drink,5,6,7,8", "cup,tea,5,1,7,2"]
    (folder / "entwisle_norms.csv").write_text("\n".join(["cue,response,kindergarten,first,third,fifth", *rows]) + "\n")
    benchmark = DevBenchWordAssociation(tmp_path)
    trials, _ = benchmark.load()
    counts = {trial.item: len(trial.options) for trial in trials}
    assert counts["dog, age 5"] == 6  # three responses, and the other words of the norms but the cue
    assert "dog, age 6" not in counts
    knows = Associations({"cat": 0.5, "big bone": 0.25, "bark": 0.25})
    result = evaluate(knows, benchmark)
    assert {one.control for one in result.results} == {""}
    by_item = {one.item: one.credit for one in result.results}
    floors = json.loads(result.facts["floors"])
    assert by_item["dog, age 5"] < 0.2 * floors["kl_5"]["constant"]
    assert by_item["dog, age 8"] > by_item["dog, age 5"]
    alike = evaluate(Associations({}), benchmark)
    assert alike.means()["kl_6"] <= floors["kl_6"]["constant"] + 1e-6
    with pytest.raises(UserError, match="lacks a method that devbench_sem_wat needs"):
        evaluate(Vectors(), benchmark)


def test_word_associations_of_the_stand_in(stand_ins):
    result = evaluate(Associations({}), DevBenchWordAssociation(stand_ins / "devbench"))
    assert list(result.means()) == ["kl_5", "kl_6", "kl_8", "kl_10"]


NORMS = "cue,response,kindergarten,first,third,fifth"


def test_word_associations_that_occur_twice_are_added(tmp_path):
    """As the sum over `group_by(age, cue, target)` in `sem-wat.R`, where underscores are blanks."""
    (tmp_path / "sem-wat").mkdir()
    rows = [NORMS, "dog,big_bone,30,,,", "dog,cat,20,,,5", "dog,big bone,30,,,", "dog,cat,,,,15"]
    (tmp_path / "sem-wat" / "entwisle_norms.csv").write_text("\n".join(rows) + "\n")
    benchmark = DevBenchWordAssociation(tmp_path)
    assert [[text for _, text in trial.options] for trial in benchmark.load()[0]] == [
        ["big bone", "cat"],
        ["cat", "big bone"],
    ]
    assert benchmark._shares == {"dog, age 5": ("kl_5", (0.75, 0.25)), "dog, age 10": ("kl_10", (1.0, 0.0))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{NORMS}\ndog,cat,4,-3,,\n", "row 2: first is '-3', must be at least 0"),
        (f"{NORMS}\ndog,cat,many,,,\n", "row 2: kindergarten is 'many', must be a number"),
        ("cue,response,kindergarden,first,third,fifth\ndog,cat,4,,,\n", r"norms\.csv: no column 'kindergarten'"),
        (f"{NORMS}\ndog,cat,,,,\n", "has no counts in the columns kindergarten, first"),
    ],
)
def test_malformed_norms_are_user_errors(tmp_path, text, message):
    (tmp_path / "sem-wat").mkdir()
    (tmp_path / "sem-wat" / "entwisle_norms.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        DevBenchWordAssociation(tmp_path).load()


def test_report_knows_which_benchmarks_show_images(stand_ins, tmp_path):
    """Words show none: a dash, and no mark of older results."""
    folder = stand_ins / "devbench/assets/sem-viz_obj_cat"
    out = tmp_path / "Same" / "version_0" / "results"
    words, pictures = (
        DevBenchWordAssociation(stand_ins / "devbench"),
        similarity(stand_ins, **{"2": folder / "human-2.csv"}),
    )
    for benchmark in (words, pictures):
        evaluate(Same(), benchmark, controls=False).save(out / f"{benchmark.name}-test.parquet")
    (table,) = suite_tables(find_rows(tmp_path)[0])
    (counts,) = (dict(zip(table.heading, row, strict=True)) for row in table.rows if row[0] == "images")
    assert (counts["Object categories RSA, age 2"], counts["Word association KL, age 5"]) == ("15", "-")
    assert not any("#" in cell for row in table.rows for cell in row)
