"""DevBench (Tan et al. 2024, arXiv 2406.10215): are a model's responses like those of children, and at which age?

Everything is read from a user's own checkout of alvinwmtan/dev-bench (@59b8f29), which has no license: nothing of it is
included here. The numbers follow its ``comparison`` folder; where they differ, the docstrings say so.
"""

from __future__ import annotations

import io
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.base import Benchmark, ForcedChoice, Judgement, Measure
from babyvlm.benchmarks.trials import Row, Trial, read_rows, split_of
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_LIST_BYTES
from babyvlm.types import ImageEmbedder, TextEmbedder, TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

Matrix = npt.NDArray[np.float64]
SUITE = "DevBench"
BETAS = (0.025, 40.0)  # range of the inverse temperature (`stats-helper.R`)
MOST_RESPONSES = 20  # responses that a cue is compared on, filled up at random (`sem-wat.R`)
# Column of Entwisle's norms -> age in years, number of children (`sem-wat.R`).
GRADES = {"kindergarten": (5.0, 200), "first": (6.0, 280), "third": (8.0, 280), "fifth": (10.0, 280)}

ChoiceTask = Literal["lex-lwl", "lex-viz_vocab", "gram-trog"]
SimilarityTask = Literal["sem-things", "sem-viz_obj_cat"]
_CHOICE_TITLES = {"lex-lwl": "Looking while listening", "lex-viz_vocab": "Visual vocabulary", "gram-trog": "TROG"}
_SIMILARITY_TITLES = {"sem-things": "THINGS", "sem-viz_obj_cat": "Object categories"}


class DevBenchChoice(ForcedChoice):
    """Accuracy, and the divergence of a model's choices from those of people of each age.

    The tasks are looking while listening (which of two pictures?), visual vocabulary, and the TROG (which of four?).
    The divergence is Kullback-Leibler's, of the shares of people who chose (or the time they looked at) each picture
    from ``softmax(beta * score)``, averaged over trials; lower is more alike. ``beta`` is fitted for each age, to all
    trials of the model, between 0.025 and 40. The mean is convex in beta, so the optimum is found exactly.

    ``floors`` has the accuracy of the people themselves, and what a constant reaches (all pictures alike).

    Args:
        trials: the checkout; its ``assets/<task>/manifest.csv`` and ``evals/<task>/human.csv`` are read, or, as
            facebookresearch/egobabyvlm arranges them, ``<task>/manifest.csv`` and ``<task>/human.csv``.
        task: the folder of the task.
        allow_missing: as in ``Benchmark``.
        variant: as in ``Benchmark``.
    """

    suite = SUITE
    order = 400

    def __init__(
        self, trials: Path | str, task: ChoiceTask = "lex-lwl", allow_missing: bool = False, variant: str = ""
    ) -> None:
        self.name, self.title = f"devbench_{task.replace('-', '_')}", _CHOICE_TITLES[task]
        self.order += list(_CHOICE_TITLES).index(task)
        manifest, self._human_file = files_of(Path(trials), task)
        super().__init__(manifest, allow_missing=allow_missing, variant=variant)
        self.measures = {"accuracy": Measure(chance=1 / 2 if task == "lex-lwl" else 1 / 4)}
        self._people: dict[str, dict[str, tuple[float, ...]]] = {}  # measure -> item -> shares

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each row of the manifest; the first picture is the right one.

        Raises:
            UserError: the manifest or the responses are malformed.
        """
        listed = read_rows(path, ("text1", "image1", "image2"))[0].cells
        columns = sorted((one for one in listed if re.fullmatch(r"image\d+", one)), key=lambda one: int(one[5:]))
        rows = read_rows(path, ("text1", *columns))
        trials = []
        for number, row in enumerate(rows, start=1):
            options = tuple((row[column], row["text1"]) for column in columns)
            trials.append(Trial(f"{number}:{row['text1']}", split_of(row, str(number), 0.0, path), "", options))
        people = _responses(self._human_file, {str(number): trial for number, trial in enumerate(trials, start=1)})
        ages = sorted(people, key=lambda age: float(age or 0))
        self._people = {_measure("kl", age): people[age] for age in ages}
        kinds = {_measure("kl", age): Measure(_title("KL", age)) for age in ages}
        self.measures = {"accuracy": Measure(chance=1 / len(columns)), **kinds}
        return trials

    def judge_view(self, trials: Sequence[Trial], scores: Sequence[tuple[float, ...]]) -> list[list[Judgement]]:
        """Return the accuracy of each trial, and its divergence from the people of each age who took it."""
        judged = [self.judge(trial, values) for trial, values in zip(trials, scores, strict=True)]
        for measure, shares in self._people.items():
            known = [place for place, trial in enumerate(trials) if trial.item in shares]
            if known:
                wanted_NO = np.array([shares[trials[place].item] for place in known])
                found_N = fitted_divergence(wanted_NO, np.array([scores[place] for place in known]))[0]
                for place, divergence in zip(known, found_N.tolist(), strict=True):
                    judged[place].append(Judgement(measure, divergence))
        return judged

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant reaches, and the accuracy of the people."""
        floors = super().floors(trials)
        for measure, shares in self._people.items():
            right = [shares[trial.item][0] for trial in trials if trial.item in shares]
            if right:
                floors["accuracy"]["people" + self.measures[measure].title.removeprefix("KL")] = sum(right) / len(right)
        return floors


class DevBenchSimilarity(Benchmark):
    """Representational similarity analysis: Spearman's correlation of a model's similarities with those of people.

    A model's similarities are the cosines of its image embeddings; a model without ``embed_images`` skips the
    benchmark. A matrix of people has a row for each picture of the manifest, or for each of its categories
    (``text1``): then the model's are averaged over pairs of categories, as ``sem-viz_obj_cat.R`` does.

    The credit of a picture (or category) is its jackknife pseudo-value with the ranks held fixed, moved so that the
    mean is the correlation: so intervals and paired tests of correlations are those of all other benchmarks.

    Args:
        trials: the checkout, as for ``DevBenchChoice``.
        task: the folder of the task.
        people: matrix of each age, or of adults: a CSV without heading, ``.npy``, or ``.mat`` file. By default
            ``spose_similarity.mat`` in the folder of the task. R's ``human.rds`` must be saved as CSV first.
        allow_missing: as in ``Benchmark``.
        variant: as in ``Benchmark``.

    Raises:
        UserError: there is no matrix.
    """

    suite = SUITE
    order = 410
    reads_text = False

    def __init__(
        self,
        trials: Path | str,
        task: SimilarityTask = "sem-things",
        people: dict[str, Path] | None = None,
        allow_missing: bool = False,
        variant: str = "",
    ) -> None:
        self.name, self.title = f"devbench_{task.replace('-', '_')}", _SIMILARITY_TITLES[task]
        manifest, human = files_of(Path(trials), task)
        super().__init__(manifest, allow_missing=allow_missing, variant=variant)
        matrices = people or {"adults": human.with_name("spose_similarity.mat")}
        missing = [str(file) for file in matrices.values() if not Path(file).is_file()]
        if missing:
            raise UserError(f"{missing[0]}: no such file. Pass people: {{AGE: MATRIX}}; see docs/how-to/suites.md")
        self._matrices = {_measure("rsa", age): read_matrix(Path(file)) for age, file in matrices.items()}
        if len(self._matrices) < len(matrices):
            raise UserError(f"people: two of {', '.join(matrices)} have the same name in results. Rename one of them")
        self.measures = {_measure("rsa", age): Measure(_title("RSA", age), correlation=True) for age in matrices}
        self._all: list[Trial] = []

    def read(self, path: Path) -> list[Trial]:
        """Return a trial for each picture, with its category as text."""
        rows = read_rows(path, ("text1", "image1"))
        self._all = [
            Trial(f"{number}:{row['image1']}", "test", "", ((row["image1"], row["text1"]),))
            for number, row in enumerate(rows)
        ]
        return self._all

    def accepts(self, model: object) -> bool:
        """Return whether the model is an ``ImageEmbedder``."""
        return isinstance(model, ImageEmbedder)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Correlate similarities, for each matrix and control."""
        from babyvlm.benchmarks.scoring import embed_images

        assert isinstance(model, ImageEmbedder)
        images = {image for view in views.values() for trial in view for image, _ in trial.options}
        found = embed_images(model, images, self.images, device=device, batch_size=batch_size, label=self.name)
        results = []
        for control, view in views.items():
            vectors_ND = np.stack([found[trial.options[0][0]] for trial in view])
            for measure, people_MM in self._matrices.items():
                results += list(self._correlated(views[""], control, measure, vectors_ND, people_MM))
        return results

    def _correlated(
        self, trials: Sequence[Trial], control: str, measure: str, vectors_ND: Matrix, people_MM: Matrix
    ) -> Iterator[TrialResult]:
        model_NN = vectors_ND @ vectors_ND.T
        categories = list(dict.fromkeys(trial.options[0][1] for trial in self._all))
        if len(people_MM) == len(self._all):
            place = {trial.item: number for number, trial in enumerate(self._all)}
            kept = [place[trial.item] for trial in trials]
            names, pictures = [trial.item for trial in trials], [trial.images for trial in trials]
            people_MM = people_MM[np.ix_(kept, kept)]
        elif len(people_MM) == len(categories):
            member_MN = np.array([[float(one.options[0][1] == name) for one in trials] for name in categories])
            if not member_MN.any(1).all():
                raise UserError(f"{self.path}: a category has lost all of its pictures")
            member_MN /= member_MN.sum(1, keepdims=True)
            model_NN = member_MN @ model_NN @ member_MN.T
            names = categories
            pictures = [
                tuple(image for one in trials if one.options[0][1] == name for image in one.images) for name in names
            ]
        else:
            raise UserError(
                f"{self.path}: has {len(self._all)} pictures of {len(categories)} categories, but the matrix of "
                f"{measure} has {len(people_MM)} rows"
            )
        credits = correlation_credits(model_NN, people_MM)
        for name, images, credit in zip(names, pictures, credits.tolist(), strict=True):
            yield TrialResult(name, "test", "", control, measure, (), None, credit, images=images)


class DevBenchWordAssociation(Benchmark):
    """Divergence of a model's word associations from those of children of four ages (Entwisle's norms).

    For each cue, the shares of children who gave each response are compared with ``softmax(beta * cosine)`` of the text
    embeddings, over the responses and random words from the norms, 20 in all. A model without ``embed_texts`` skips the
    benchmark. ``beta`` is fitted for each age. As in ``sem-wat.R``, counts of rows with the same cue and response are
    added. Unlike there, shares are normalized over the listed responses, so that a model that gives the same reaches 0.
    Adults are left out, whose norms are elsewhere.

    Args:
        trials: the checkout, as for ``DevBenchChoice``; ``assets/sem-wat/entwisle_norms.csv`` is read.
        seed: of the random words.
        variant: as in ``Benchmark``.
    """

    name = "devbench_sem_wat"
    title = "Word association"
    suite = SUITE
    order = 420
    has_images = False

    def __init__(self, trials: Path | str, seed: int = 0, variant: str = "") -> None:
        manifest, _ = files_of(Path(trials), "sem-wat", "entwisle_norms.csv")
        super().__init__(manifest, variant=variant)
        self.seed = seed
        self.measures = {_measure("kl", f"{age:g}"): Measure(_title("KL", f"{age:g}")) for age, _ in GRADES.values()}
        self._shares: dict[str, tuple[str, tuple[float, ...]]] = {}  # item -> measure, shares

    def read(self, path: Path) -> list[Trial]:
        """Return a trial for each cue and age; its options are the responses.

        Raises:
            UserError: the norms are malformed.
        """
        rows = read_rows(path, ("cue", "response"))
        if missing := [grade for grade in GRADES if grade not in rows[0].cells]:
            raise UserError(f"{path}: no column {missing[0]!r}")
        pairs = [(row["cue"].replace("_", " "), row["response"].replace("_", " ")) for row in rows]
        words = sorted({word for pair in pairs for word in pair})
        trials = []
        for grade, (age, _) in GRADES.items():
            by_cue: dict[str, dict[str, float]] = {}
            for row, (cue, response) in zip(rows, pairs, strict=True):
                count = _count(row, grade, path)
                if count:
                    counts = by_cue.setdefault(cue, {})
                    counts[response] = counts.get(response, 0.0) + count
            for cue, counts in by_cue.items():
                rng = random.Random(f"{self.seed} {grade} {cue}")
                others = [word for word in words if word != cue and word not in counts]
                shown = [*counts, *rng.sample(others, min(len(others), max(0, MOST_RESPONSES - len(counts))))]
                item, total = f"{cue}, age {age:g}", sum(counts.values())
                wanted = tuple(counts.get(word, 0.0) / total for word in shown)
                self._shares[item] = _measure("kl", f"{age:g}"), wanted
                trials.append(Trial(item, "test", "", tuple(("", word) for word in shown), group=cue))
        if not trials:
            raise UserError(f"{path}: has no counts in the columns {', '.join(GRADES)}")
        return trials

    def load(self) -> tuple[list[Trial], int]:
        """Return all trials: there are no images."""
        return self.read(self.path), 0

    def accepts(self, model: object) -> bool:
        """Return whether the model is a ``TextEmbedder``."""
        return isinstance(model, TextEmbedder)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Compare the associations of each age."""
        from babyvlm.benchmarks.scoring import embed_texts

        assert isinstance(model, TextEmbedder)
        trials = views[""]
        texts = {text for trial in trials for text in (trial.group, *(text for _, text in trial.options))}
        found = embed_texts(model, texts, label=self.name)
        scores = [tuple(float(found[trial.group] @ found[text]) for _, text in trial.options) for trial in trials]
        return [
            TrialResult(trial.item, trial.split, "", "", measure, values, None, divergence, group=trial.group)
            for trial, values, measure, divergence in self._divergences(trials, scores)
        ]

    def _divergences(
        self, trials: Sequence[Trial], scores: Sequence[tuple[float, ...]]
    ) -> Iterator[tuple[Trial, tuple[float, ...], str, float]]:
        for measure in self.measures:
            chosen = [place for place, trial in enumerate(trials) if self._shares[trial.item][0] == measure]
            if chosen:
                width = max(len(scores[place]) for place in chosen)
                wanted_NO = np.array([_padded(self._shares[trials[place].item][1], width, 0.0) for place in chosen])
                score_NO = np.array([_padded(scores[place], width, -math.inf) for place in chosen])
                found_N = fitted_divergence(wanted_NO, score_NO)[0]
                for place, divergence in zip(chosen, found_N.tolist(), strict=True):
                    yield trials[place], scores[place], measure, divergence

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return the scores of a model that gives all words the same embedding."""
        constant = [(0.0,) * len(trial.options) for trial in trials]
        found: dict[str, list[float]] = {}
        for _, _, measure, divergence in self._divergences(trials, constant):
            found.setdefault(measure, []).append(divergence)
        return {measure: {"constant": sum(values) / len(values)} for measure, values in found.items()}


def files_of(root: Path, task: str, manifest: str = "manifest.csv") -> tuple[Path, Path]:
    """Return the manifest of a task, and the place of the responses of people.

    Raises:
        UserError: there is no manifest.
    """
    for assets, evals in ((root / "assets" / task, root / "evals" / task), (root / task, root / task)):
        if (assets / manifest).is_file():
            return assets / manifest, evals / "human.csv"
    raise UserError(f"{root}: has no assets/{task}/{manifest}. Pass a checkout of github.com/alvinwmtan/dev-bench")


def _responses(file: Path, trials: Mapping[str, Trial]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return age -> item -> share of each picture. A file without ages has the age ``""``.

    A row without any response is left out.
    """
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in read_rows(file, ("trial",)):
        trial = trials.get(row["trial"])
        if trial is None:
            raise UserError(f"{file}, row {row.line}: trial {row['trial']!r} is not a row of the manifest")
        is_looking = "prop" in row.cells  # the share of time on the right one of two pictures
        columns = ["prop"] if is_looking else [f"image{place + 1}" for place in range(len(trial.options))]
        if missing := [column for column in columns if column not in row.cells]:
            raise UserError(f"{file}: no column {missing[0]!r}")
        if not any(row[column].strip() for column in columns):
            continue
        values = [_number(row, column, file) for column in columns]
        shares = (values[0], 1 - values[0]) if is_looking else tuple(values)
        total = sum(shares)
        if len(shares) != len(trial.options) or min(shares) < 0 or not 0 < total < math.inf:
            raise UserError(f"{file}, row {row.line}: the shares of the pictures must be at least 0, and not all 0")
        age = f"{_number(row, 'age_bin', file):g}" if "age_bin" in row.cells else ""
        if trial.item in found.setdefault(age, {}):
            of_age = f" at age {age}" if age else ""
            raise UserError(f"{file}, row {row.line}: trial {row['trial']}{of_age} occurs twice. Remove one row")
        found[age][trial.item] = tuple(share / total for share in shares)
    if not found:
        raise UserError(f"{file}: has no responses")
    return found


def _number(row: Row, column: str, file: Path) -> float:
    """Return a cell as a number.

    Raises:
        UserError: it is not a finite number.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{file}, row {row.line}: {column} is {row[column]!r}, must be a number")
    return value


def _count(row: Row, column: str, file: Path) -> float:
    """Return a cell as a number of children; 0 if it is empty.

    Raises:
        UserError: it is not a number of at least 0.
    """
    count = _number(row, column, file) if row[column].strip() else 0.0
    if count < 0:
        raise UserError(f"{file}, row {row.line}: {column} is {row[column]!r}, must be at least 0")
    return count


def _measure(kind: str, age: str) -> str:
    return f"{kind}_{age}".replace(".", "_").replace(" ", "_") if age else kind


def _title(kind: str, age: str) -> str:
    return f"{kind}, age {age}" if age and age[0].isdigit() else f"{kind}, {age}" if age else kind


def _padded(values: Sequence[float], width: int, filler: float) -> list[float]:
    return [*values, *(filler,) * (width - len(values))]


def fitted_divergence(wanted_NO: Matrix, score_NO: Matrix) -> tuple[Matrix, float]:
    """Return (N,) divergences of ``softmax(beta * score)`` from the wanted shares, and the beta of the least mean.

    >>> fitted_divergence(np.array([[0.8, 0.2]]), np.array([[np.log(4.0), 0.0]]))[0].round(6).tolist()
    [0.0]

    Args:
        wanted_NO: shares, each row of which sums to 1.
        score_NO: scores; negative infinity for an option that does not exist.
    """
    from scipy.optimize import minimize_scalar

    exists_NO = np.isfinite(score_NO)
    best_N1 = np.max(np.where(exists_NO, score_NO, -np.inf), axis=1, keepdims=True)
    gap_NO = np.where(exists_NO, score_NO - best_N1, 0.0)  # at most 0
    with np.errstate(divide="ignore", invalid="ignore"):
        own_N = np.where(wanted_NO > 0, wanted_NO * np.log(wanted_NO), 0.0).sum(1)

    def divergence(beta: float) -> Matrix:
        norm_N1 = np.log((np.exp(beta * gap_NO) * exists_NO).sum(1, keepdims=True))
        found_N: Matrix = own_N - (wanted_NO * (beta * gap_NO - norm_N1)).sum(1)
        return np.maximum(found_N, 0.0)  # rounding

    fit = minimize_scalar(lambda beta: divergence(beta).mean(), bounds=BETAS, method="bounded", options={"xatol": 1e-6})
    return divergence(float(fit.x)), float(fit.x)


def correlation_credits(model_NN: Matrix, people_NN: Matrix) -> Matrix:
    """Return (N,) credits whose mean is Spearman's correlation of two symmetric matrices below their diagonals.

    Their deviations from the mean are those of the jackknife: leaving out an item leaves out all of its pairs. The
    ranks are not computed anew, which makes it as fast as one correlation. Pairs that people did not compare (NaN) do
    not count. Where one of the two does not vary, the correlation is 0.

    Raises:
        UserError: there are fewer than three items.
    """
    from scipy.stats import rankdata

    count = len(model_NN)
    if count < 3:
        raise UserError(f"{count} items: a correlation of similarities needs at least 3")
    row_P, column_P = np.tril_indices(count, -1)
    known_P = np.isfinite(people_NN[row_P, column_P])
    row_P, column_P = row_P[known_P], column_P[known_P]
    x_P, y_P = (rankdata(one[row_P, column_P].round(12)) for one in (model_NN, people_NN))
    terms_KP = np.stack([np.ones_like(x_P), x_P, y_P, x_P**2, y_P**2, x_P * y_P])
    total_K = terms_KP.sum(1)
    own_NK = np.stack([np.bincount(row_P, one, count) + np.bincount(column_P, one, count) for one in terms_KP], axis=1)
    whole = float(_pearson(total_K[None])[0])
    without_N = _pearson(total_K - own_NK)
    pseudo_N = count * whole - (count - 1) * without_N
    credits_N: Matrix = pseudo_N - pseudo_N.mean() + whole
    return credits_N


def _pearson(sums_NK: Matrix) -> Matrix:
    """Return correlations from (N, 6) sums of 1, x, y, x^2, y^2, and xy; 0 where one does not vary."""
    n, x, y, xx, yy, xy = sums_NK.T
    spread = (n * xx - x**2) * (n * yy - y**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Matrix = np.where(spread > 1e-9 * np.maximum(xx * yy, 1), (n * xy - x * y) / np.sqrt(spread), 0.0)
    return found


def read_matrix(file: Path) -> Matrix:
    """Return a symmetric matrix: CSV without heading, ``.npy``, or the largest square matrix of a ``.mat`` file.

    Raises:
        UserError: it cannot be read, is not square, or has no numbers below its diagonal.
    """
    try:
        content = io.BytesIO(read_bounded(file, MAX_LIST_BYTES))
        if file.suffix == ".npy":
            found = np.load(content, allow_pickle=False)
        elif file.suffix == ".mat":
            from scipy.io import loadmat

            arrays = [value for value in loadmat(content).values() if isinstance(value, np.ndarray) and value.ndim == 2]
            found = max((one for one in arrays if one.shape[0] == one.shape[1]), key=len)
        else:
            found = np.genfromtxt(content, delimiter=",", encoding="utf-8")
        matrix = np.asarray(found, dtype=np.float64)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{file}: cannot be read as a matrix ({first_line(error)})") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"{file}: is not a square matrix (its shape is {matrix.shape})")
    if not np.isfinite(matrix[np.tril_indices(len(matrix), -1)]).any():
        raise UserError(f"{file}: has no finite number below its diagonal. Save it without heading and names")
    return matrix
