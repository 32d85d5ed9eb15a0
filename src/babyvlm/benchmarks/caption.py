"""SAYCam Caption: say what is in the picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning import LightningModule

from babyvlm.benchmarks.base import Benchmark
from babyvlm.benchmarks.controls import Views
from babyvlm.benchmarks.meteor import load_wordnet, meteor_nltk
from babyvlm.benchmarks.meteor_jar import find_program, meteor_15, start_jar
from babyvlm.benchmarks.trial_images import load_images
from babyvlm.benchmarks.trials import Trial, half_of, read_rows
from babyvlm.errors import UserError
from babyvlm.io.distributed import is_rank_zero, map_over_ranks, progress
from babyvlm.types import Captioner, TrialResult

COLUMNS = ("image", "text")
MAX_NEW_TOKENS = 25  # paper, section 4
Pairs = Sequence[tuple[str, str]]  # hypothesis, reference


class Caption(Benchmark):
    """Mean METEOR of greedy captions, by METEOR 1.5 and by NLTK's.

    The list has the authors' columns ``image,text``. A model that does not caption is left alone.
    """

    name = "caption"
    measure = ""  # both have a name of their own

    def read(self, path: Path) -> list[Trial]:
        """Trials, one a row, named by the row's line in the file."""
        trials = []
        for row in read_rows(path, COLUMNS):
            item = f"{row.line}:{row['image']}"
            trials.append(Trial(item, half_of(row, item, self.dev_fraction, path), "", ((row["image"], row["text"]),)))
        return trials

    def check(self, model: LightningModule) -> bool:
        """It may be a captioner.

        Raises:
            UserError: METEOR is not installed.
        """
        if not isinstance(model, Captioner):
            return False
        find_program()
        self.measures = {"meteor_15": meteor_15}
        try:
            load_wordnet()
            self.measures["meteor_nltk"] = meteor_nltk
        except UserError as error:
            if is_rank_zero():
                print(f"{self.name}: METEOR by NLTK is left out: {error}")
        return True

    def results(self, model: LightningModule, views: Views) -> list[TrialResult]:
        """Score what the model says of each trial's image."""
        assert isinstance(model, Captioner)
        trials = [(control, trial) for control, view in views.items() for trial in view]
        said = self._captions(model, sorted({trial.options[0][0] for _, trial in trials}), model.device)
        pairs = [(said[trial.options[0][0]], trial.options[0][1]) for _, trial in trials]
        return [
            TrialResult(trial.item, trial.half, "", control, measure, (), None, score[pair], said=pair[0])
            for measure, score in self._meteor(pairs).items()
            for (control, trial), pair in zip(trials, pairs, strict=True)
        ]

    def _captions(self, model: Captioner, images: Sequence[str], device: torch.device) -> dict[str, str]:
        def work(batches: Sequence[Sequence[str]]) -> dict[str, str]:
            said: dict[str, str] = {}
            for batch in progress(batches, self.name):
                with torch.no_grad():
                    captions = model.caption(load_images(model, batch, self.images, device), MAX_NEW_TOKENS)
                said.update(zip(batch, captions, strict=True))
            return said

        if is_rank_zero():
            start_jar(os.getpid())  # it takes a while, and the captions too
        batches = [images[first : first + self.batch_size] for first in range(0, len(images), self.batch_size)]
        return {image: caption for part in map_over_ranks(batches, work) for image, caption in part.items()}

    def _meteor(self, pairs: Pairs) -> Mapping[str, Mapping[tuple[str, str], float]]:
        """Score of each distinct pair by each measure: the first rank's, which all the others are told."""

        def work(tasks: Sequence[Pairs]) -> list[dict[str, dict[tuple[str, str], float]]]:
            return [
                {name: dict(zip(pairs, score(*zip(*pairs, strict=True)), strict=True)) for name, score in measures}
                for pairs in tasks
            ]

        measures = self.measures.items()
        return map_over_ranks([list(dict.fromkeys(pairs))], work)[0][0]
