"""A model of lmms-eval (EvolvingLMMs-Lab/lmms-eval 0.7) for whatever ``babyvlm.load`` loads.

Only lmms-eval imports this module. The model is registered by an entry point, so that ``--model babyvlm`` works once
both packages are installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL.Image import Image

from babyvlm.errors import UserError
from babyvlm.io.distributed import progress
from babyvlm.models.hub import load
from babyvlm.types import Captioner, ImageTextScorer


def manifest() -> ModelManifest:
    """Return the entry of lmms-eval's registry."""
    return ModelManifest(model_id="babyvlm", simple_class_path="babyvlm.adapters.lmms_eval_model.BabyVLM")


class BabyVLM(lmms):  # type: ignore[misc] # lmms-eval is not typed
    """Scores images with texts and captions images, for lmms-eval.

    The value of ``loglikelihood`` is the negated score, since lmms-eval 0.7 chooses the option with the least value
    (``api/task.py``), as its models return losses. A prompt is not used: these models have none.

    Args:
        source: as of ``babyvlm.load``.
        device: to move the model to.
        batch_size: images scored or captioned at once.
        revision: as of ``babyvlm.load``.

    Raises:
        UserError: there is no such model.
    """

    is_simple = True

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
            images_BCHW = torch.stack([self.model.preprocess(image) for image in images]).to(self.place)
            distinct = list(dict.fromkeys(texts))
            place_B = torch.tensor([distinct.index(text) for text in texts])
            wanted_BT = torch.nn.functional.one_hot(place_B, len(distinct)).bool().to(self.place)
            with torch.no_grad():
                score_BT = self.model.score(images_BCHW, distinct, wanted_BT)
            found += [(-float(row[place]), False) for row, place in zip(score_BT, place_B.tolist(), strict=True)]
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return a caption of each request's image.

        Raises:
            UserError: the model does not caption, or a request has no or several images.
        """
        if not isinstance(self.model, Captioner):
            raise UserError(f"{type(self.model).__name__} has no caption() and cannot be evaluated by generation")
        captions: list[str] = []
        for batch in self._batches(requests):
            images, tokens = [], []
            for _, options, visual, number, task, split in (request.args for request in batch):
                images.append(self.model.preprocess(_only_image(visual(self.task_dict[task][split][number]), task)))
                tokens.append(int(options.get("max_new_tokens", 25)))
            with torch.no_grad():
                captions += self.model.caption(torch.stack(images).to(self.place), max(tokens))
        return captions

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: these models read one image and no conversation.

        Raises:
            UserError: always.
        """
        raise UserError("babyvlm models read one image and no conversation; leave out tasks of several rounds")

    def _batches(self, requests: Sequence[Instance]) -> Iterable[Sequence[Instance]]:
        starts = range(0, len(requests), self.size)
        return progress([requests[start : start + self.size] for start in starts], "babyvlm")


def _only_image(visuals: Sequence[Image], task: str) -> Image:
    if len(visuals) != 1:
        raise UserError(f"task {task}: shows {len(visuals)} images at once; babyvlm models read one")
    return visuals[0].convert("RGB")
