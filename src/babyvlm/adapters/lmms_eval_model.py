"""A model of lmms-eval (EvolvingLMMs-Lab/lmms-eval) for whatever ``babyvlm.load`` loads.

Only lmms-eval imports this module. In lmms-eval 0.7, the model is registered by an entry point, so that ``--model
babyvlm`` works once both packages are installed. The challenge's leaderboard runs a fork of lmms-eval 0.3, which has no
``registry_v2``: the bundle of ``submission`` needs ``api`` only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL.Image import Image
from torch.nn.functional import normalize, one_hot

from babyvlm.benchmarks.devcv import Question, question_of
from babyvlm.benchmarks.scoring import cut
from babyvlm.errors import UserError
from babyvlm.io.distributed import progress
from babyvlm.io.printing import echo
from babyvlm.models.hub import load
from babyvlm.types import Captioner, ImageEmbedder, ImageTextScorer

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the entry of lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="babyvlm", simple_class_path="babyvlm.adapters.lmms_eval_model.BabyVLM")


class BabyVLM(lmms):  # type: ignore[misc] # lmms-eval is not typed
    """Scores images with texts, answers the questions of DevCV Toolbox, and captions images, for lmms-eval.

    The value of ``loglikelihood`` is the negated score, since lmms-eval 0.7 chooses the option with the least value
    (``api/task.py``), as its models return losses. Its prompt is not used: these models have none.

    Attributes:
        skips: answer a request that the model cannot answer with an empty text and a warning, instead of an error, so
            that it does not end a run of many tasks.

    Args:
        source: as of ``babyvlm.load``.
        device: to move the model to.
        batch_size: images scored or captioned at once.
        revision: as of ``babyvlm.load``.

    Raises:
        UserError: there is no such model.
    """

    is_simple = True
    skips = False

    def __init__(
        self,
        source: str,
        device: str = "cpu",
        batch_size: int | str = 16,
        revision: str | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__()
        unknown = sorted(kwargs.keys() - {"max_batch_size"})  # lmms-eval passes it to every model
        if unknown:
            raise UserError(f"--model_args: {unknown[0]} is unknown; there are source, device, batch_size, revision")
        self.model: Any = load(source, device, revision=revision)
        self.place = torch.device(device)
        self.size = int(batch_size)
        self._warned = set[str]()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the negated score of each request's image with its text, and False (nothing is generated).

        Raises:
            UserError: the model scores no images with texts, or a request has no or several images.
        """
        if not isinstance(self.model, ImageTextScorer):
            raise UserError(f"{type(self.model).__name__} has no score() and cannot be evaluated by likelihood")
        found: list[tuple[float, bool]] = []
        for batch in self._batches(requests):
            images, texts = [], []
            for _, target, visual, number, task, split in (request.args for request in batch):
                document = self.task_dict[task][split][number]
                images.append(_only_image(visual(document), task))
                texts.append((target(document) if callable(target) else target).strip())
            found += [(-score, False) for score in self._scores(images, texts)]
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the answer to each request.

        A question of DevCV Toolbox (``question_of``) is answered with the letter or number of the option that scores
        highest, the first if tied. Any other request is answered with a caption of its image.

        Raises:
            UserError: the model cannot answer a request: it does not caption, or is asked something else about several
                images. With ``skips``, the answer is empty instead.
        """
        answers: list[str] = []
        for batch in self._batches(requests):
            waiting: dict[int, tuple[Image, int]] = {}  # to caption: image, number of tokens
            for place, request in enumerate(batch, start=len(answers)):
                context, options, visual, number, task, split = request.args
                images = [one.convert("RGB") for one in visual(self.task_dict[task][split][number]) or ()]
                question = question_of(str(context), [str(image) for image in range(len(images))])
                if question is not None and self._can_answer(question):
                    answers.append(self._answer(question, images))
                    continue
                answers.append("")
                if not isinstance(self.model, Captioner):
                    self._refuse(task, f"{type(self.model).__name__} has no caption() and answers DevCV questions only")
                elif len(images) != 1:
                    self._refuse(task, f"shows {len(images)} images at once; babyvlm models read one")
                else:
                    waiting[place] = images[0], int(options.get("max_new_tokens", 25))
            if waiting:
                images_BCHW = self._preprocess([image for image, _ in waiting.values()])
                with torch.no_grad():
                    captions = self.model.caption(images_BCHW, max(tokens for _, tokens in waiting.values()))
                for place, caption in zip(waiting, captions, strict=True):
                    answers[place] = caption
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: these models read one image and no conversation.

        Raises:
            UserError: always, but with ``skips``: then the answers are JSON lists of as many empty texts as there are
                rounds, which is the form of the leaderboard's Memory task (``submission_template/model.py``).
        """
        answers = []
        for request in requests:
            *_, number, task, split = request.args
            self._refuse(task, "is a conversation; babyvlm models read one image and no conversation")
            turns = [turn.get("from") for turn in self.task_dict[task][split][number].get("conversations", ())]
            rounds = sum(one == "human" != other for one, other in zip(turns, [*turns[1:], ""], strict=True))
            answers.append(json.dumps([""] * rounds))
        return answers

    def _refuse(self, task: str, reason: str) -> None:
        if not self.skips:
            raise UserError(f"task {task}: {reason}. Leave it out of --tasks")
        if task not in self._warned:
            self._warned.add(task)
            echo(f"warning: task {task}: {reason}. Its answers are empty", file=sys.stderr)

    def _can_answer(self, question: Question) -> bool:
        return isinstance(self.model, ImageEmbedder if question.compares_images else ImageTextScorer)

    def _answer(self, question: Question, images: Sequence[Image]) -> str:
        """Return the answer whose option scores highest."""
        if question.compares_images:
            with torch.no_grad():
                vector_BD = normalize(self.model.embed_images(self._preprocess(images)).double(), dim=-1)
            scores = [float(vector_BD[int(one)] @ vector_BD[int(other)]) for one, other in question.options]
        else:
            parts = [image.partition("\0") for image, _ in question.options]
            shown = [cut(images[int(image)], part) for image, _, part in parts]
            scores = self._scores(shown, [text for _, text in question.options])
        return question.answers[scores.index(max(scores))]

    def _scores(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """Return the score of each image with its text."""
        distinct = list(dict.fromkeys(texts))
        place_B = torch.tensor([distinct.index(text) for text in texts])
        wanted_BT = one_hot(place_B, len(distinct)).bool().to(self.place)
        with torch.no_grad():
            score_BT = self.model.score(self._preprocess(images), distinct, wanted_BT)
        return [float(row[place]) for row, place in zip(score_BT, place_B.tolist(), strict=True)]

    def _preprocess(self, images: Sequence[Image]) -> torch.Tensor:
        return torch.stack([self.model.preprocess(image) for image in images]).to(self.place)

    def _batches(self, requests: Sequence[Instance]) -> Iterable[Sequence[Instance]]:
        starts = range(0, len(requests), self.size)
        return progress([requests[start : start + self.size] for start in starts], "babyvlm")


def _only_image(visuals: Sequence[Image], task: str) -> Image:
    if len(visuals) != 1:
        raise UserError(f"task {task}: shows {len(visuals)} images at once; babyvlm models read one")
    return visuals[0].convert("RGB")
