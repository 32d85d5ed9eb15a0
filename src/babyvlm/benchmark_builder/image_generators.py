"""Who makes negative images: Playroom's renderer, a diffusion model on this machine, or a server."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import require_extra
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.playroom.web import draw_studio_image
from babyvlm.playroom.world import COLOURS, COUNTS, SIZES, VERBS, Topic, home_things, random_stream, things

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from babyvlm.benchmark_builder.items import Item

PROMPT = "a photo of {phrase}, as seen in a home with a small child"


class Painter(Protocol):
    """Makes a picture of a phrase.

    Attributes:
        model: what makes the pictures, for the record.
    """

    model: str

    def paint(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """An RGB picture; None if this phrase cannot be painted.

        Args:
            phrase: two words.
            prompt: the phrase as a language model's prompt.
            seed: all chance comes from it.
            like: the image of the positive phrase, for painters that begin from it.
        """
        ...


def seed_of(item: Item, seed: int) -> int:
    """A seed of its own for every item, below 2**31."""
    return int.from_bytes(hashlib.sha256(f"{seed} {item.name}".encode()).digest()[:4], "big") >> 1


class PlayroomPainter:
    """Draws what Playroom knows, in the style of its web pictures: out of the home camera's distribution."""

    model = "playroom"

    def paint(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """The phrase drawn; None for a thing or a word that Playroom has not."""
        del prompt, like
        topic = _topic(phrase)
        return draw_studio_image(random_stream(seed, "negative", phrase), topic) if topic else None


def _topic(phrase: str) -> Topic | None:
    word, noun = phrase.split()
    named = [thing for thing in (*home_things(), *things()) if noun in (thing.name, thing.plural)]
    kinds = {"verb": tuple(VERBS), "colour": tuple(COLOURS), "size": SIZES, "count": COUNTS}
    kind = next((kind for kind, words in kinds.items() if word in words), None)
    return Topic(named[0], **{kind: word}) if named and kind else None


@dataclass
class DiffusionPainter:
    """A Diffusers pipeline on this machine; no code from a model's repository is run.

    Args:
        model: hub name or folder, in safetensors.
        steps: of denoising.
        strength: how far an image goes from the positive one, 0 to 1; None paints from the prompt alone.
        device: as in torch.
    """

    model: str
    steps: int
    strength: float | None
    device: str

    def __post_init__(self) -> None:
        with require_extra("gen", "--method diffusers"):
            from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
        kind = AutoPipelineForText2Image if self.strength is None else AutoPipelineForImage2Image
        try:
            self._pipeline = kind.from_pretrained(self.model, use_safetensors=True).to(self.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"--model {self.model}: diffusers cannot load it ({first_line(error)})") from None
        self._pipeline.set_progress_bar_config(disable=True)

    def paint(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """The prompt painted, the same for the same seed; None if a safety checker blacked it out."""
        import torch

        del phrase
        how: dict[str, Any] = {"num_inference_steps": self.steps, "generator": torch.Generator("cpu").manual_seed(seed)}
        if self.strength is not None:
            how |= {"image": open_rgb(like), "strength": self.strength}
        found = self._pipeline(prompt, **how)
        if any(getattr(found, "nsfw_content_detected", None) or []):
            return None
        image: Image = found.images[0]
        return image


class ServerPainter:
    """An OpenAI-style image endpoint. It gets the prompt, which holds the negative phrase; never an image.

    Args:
        model: as the server names it.
        base_url: up to and with ``/v1``.
        key_file: file of the API key; None reads the environment.
        timeout: seconds to wait for a picture.
        size: of the picture, as in ``1024x1024``.
    """

    def __init__(self, model: str, base_url: str, key_file: Path | None, timeout: float, size: str) -> None:
        with require_extra("llm", "--method server"):
            from babyvlm.curation.rewrite.llm.client import open_server
        self.model, self.size = model, size
        self._server = open_server(base_url, key_file, timeout, licensed=None)

    def paint(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """The prompt painted. Such servers take no seed.

        Raises:
            UserError: the server does not answer, or not with a picture.
        """
        from babyvlm.curation.rewrite.llm.client import RequestError

        del phrase, seed, like
        # gpt-image models always answer with the bytes, and refuse to be told.
        how: dict[str, Any] = {} if self.model.startswith("gpt-image") else {"response_format": "b64_json"}
        how |= {"model": self.model, "prompt": prompt, "n": 1, "size": self.size, "extra_headers": self._server.headers}
        make: Any = self._server.client.images.generate
        try:
            reply = self._server.send_with_retries(lambda: make(**how))
            content = reply.data[0].b64_json if getattr(reply, "data", None) else None
            return open_rgb(base64.b64decode(content or "", validate=True))
        except RequestError as error:
            raise UserError(f"{self._server.base_url}: {error.reason} ({error.detail})") from None
        except (BrokenImageError, ValueError) as error:
            raise UserError(f"{self._server.base_url}: answered without a picture ({error})") from None


def png(image: Image) -> bytes:
    """The picture as PNG bytes: generated once, so that nothing is lost afterwards."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


Method = Literal["playroom", "diffusers", "server"]
