"""SAYCam Caption (BabyVLM): describe the image as the caregiver did."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from babyvlm.benchmarks.base import Benchmark, Measure
from babyvlm.benchmarks.trials import Row, Trial, read_rows, split_of
from babyvlm.errors import UserError
from babyvlm.io.printing import echo
from babyvlm.types import Captioner, TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

COLUMNS = ("image", "text")
MAX_NEW_TOKENS = 25  # babylmms-eval @82118a8: tasks/saycam_caption/saycam_caption.yaml
FLOOR_IMAGES = 300  # our choice: so many images are enough for the mean of a floor, and take seconds
Pairs = Sequence[tuple[str, str]]  # hypothesis, reference


class SAYCamCaption(Benchmark):
    """Mean METEOR of greedy captions, by METEOR 1.5 and, where its data are installed, by NLTK.

    The list has the authors' columns ``image,text``. Rows of one image are its references: a caption counts as good as
    with the reference that it is closest to, as METEOR defines it for several references (Denkowski and Lavie 2014). A
    run skips the benchmark if its model does not caption.
    """

    name = "caption"
    title = "Caption"
    order = 30
    measures: Mapping[str, Measure] = {"meteor_15": Measure("METEOR 1.5"), "meteor_nltk": Measure("METEOR NLTK")}

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each image, named by the line of its first row in the file; one option per reference."""
        rows_of: dict[tuple[str, str], list[Row]] = {}
        for row in read_rows(path, COLUMNS):
            rows_of.setdefault((row["image"], split_of(row, row["image"], self.dev_fraction, path)), []).append(row)
        return [
            Trial(rows[0].item, split, "", tuple((row["image"], row["text"]) for row in rows))
            for (_, split), rows in rows_of.items()
        ]

    def accepts(self, model: object) -> bool:
        """Return whether the model is a ``Captioner``.

        Raises:
            UserError: METEOR 1.5 is not installed.
        """
        from babyvlm.benchmarks.meteor import load_nltk_data, meteor_nltk
        from babyvlm.benchmarks.meteor_jar import find_program, meteor_15
        from babyvlm.io.distributed import is_rank_zero

        if not isinstance(model, Captioner):
            return False
        find_program()
        self._meteor = {"meteor_15": meteor_15}
        try:
            load_nltk_data()
            self._meteor["meteor_nltk"] = meteor_nltk
        except UserError as error:
            if is_rank_zero():
                echo(f"{self.name}: METEOR by NLTK is left out: {error}")
        return True

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Score the caption of each trial's image."""
        assert isinstance(model, Captioner)
        trials = [(control, trial) for control, view in views.items() for trial in view]
        images = sorted({trial.options[0][0] for _, trial in trials})
        caption_of = self._captions(model, images, device, batch_size)
        pairs = [(caption_of[image], text) for _, trial in trials for image, text in trial.options]
        images_of = {trial.item: trial.images for trial in views[""]}
        return [
            TrialResult(
                trial.item,
                trial.split,
                "",
                control,
                measure,
                (),
                None,
                max(score[caption_of[image], text] for image, text in trial.options),
                output=caption_of[trial.options[0][0]],
                images=images_of[trial.item],
                texts=tuple(text for _, text in trial.options),
            )
            for measure, score in self._scores(pairs).items()
            for control, trial in trials
        ]

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return METEOR of captions that do not depend on the image, and of people's, which are a ceiling.

        They are made of the references, so that no model reaches the floors by chance:

        - ``constant``: the reference whose words are the most frequent ones for its length;
        - ``word salad``: the most frequent words, as many as a reference has, in this order;
        - ``oracle``: an image's first reference against its other ones; only for images with several references.
        """
        chosen = trials[:: -(-len(trials) // FLOOR_IMAGES)]
        references = [[text for _, text in trial.options] for trial in chosen]
        constant, salad = _constant_captions([text for texts in references for text in texts])
        captions = {
            "constant": [(constant, texts) for texts in references],
            "word salad": [(salad, texts) for texts in references],
            "oracle": [(texts[0], texts[1:]) for texts in references if len(texts) > 1],
        }
        given = {name: found for name, found in captions.items() if found}
        pairs = [(caption, text) for found in given.values() for caption, texts in found for text in texts]
        return {
            measure: {
                name: mean(max(score[caption, text] for text in texts) for caption, texts in found)
                for name, found in given.items()
            }
            for measure, score in self._scores(pairs).items()
        }

    def _captions(
        self, model: Captioner, images: Sequence[str], device: torch.device, batch_size: int
    ) -> dict[str, str]:
        """Caption each image once; the batches are shared out over the ranks."""
        import torch

        from babyvlm.benchmarks.meteor_jar import start_jar
        from babyvlm.benchmarks.scoring import loaded_batches
        from babyvlm.io.distributed import is_rank_zero, map_over_ranks, progress

        def work(batches: Sequence[Sequence[str]]) -> dict[str, str]:
            caption_of: dict[str, str] = {}
            loaded = loaded_batches(model, batches, self.images, device)
            for batch, images_BCHW in zip(progress(batches, self.name), loaded, strict=True):
                with torch.no_grad():
                    captions = model.caption(images_BCHW, MAX_NEW_TOKENS)
                caption_of.update(zip(batch, captions, strict=True))
            return caption_of

        if is_rank_zero():
            start_jar(os.getpid())  # Java needs ten seconds to start, which pass while the model captions
        batches = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
        return {image: caption for part in map_over_ranks(batches, work) for image, caption in part.items()}

    def _scores(self, pairs: Pairs) -> Mapping[str, Mapping[tuple[str, str], float]]:
        """Score each distinct pair by each measure, on the first rank, and send the scores to the others."""
        from babyvlm.io.distributed import map_over_ranks

        def work(tasks: Sequence[Pairs]) -> list[dict[str, dict[tuple[str, str], float]]]:
            return [
                {name: dict(zip(pairs, score(*zip(*pairs, strict=True)), strict=True)) for name, score in measures}
                for pairs in tasks
            ]

        measures = self._meteor.items()
        return map_over_ranks([list(dict.fromkeys(pairs))], work)[0][0]


def _constant_captions(references: Sequence[str]) -> tuple[str, str]:
    """Return the reference with the most frequent words for its length, and the most frequent words in a row."""
    words_of = {text: text.split() for text in references}
    count = Counter(word for text in references for word in set(words_of[text]))
    length = median(len(words_of[text]) for text in references)

    def shared(text: str) -> float:  # the expected number of common words, relative to the lengths of both (F1)
        return sum(count[word] for word in set(words_of[text])) / (len(words_of[text]) + length)

    salad = [word for word, _ in sorted(count.items(), key=lambda entry: (-entry[1], entry[0]))]
    return max(sorted(words_of), key=shared), " ".join(salad[: round(length)])
