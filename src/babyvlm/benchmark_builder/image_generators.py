"""Generators of negative images: Playroom's renderer, a diffusion model on this machine, or a server."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import require_extra
from babyvlm.io.hub import fetch, refuse_code
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.playroom.actions import VERBS
from babyvlm.playroom.modifiers import MODIFIERS
from babyvlm.playroom.topics import Topic, random_stream, topic
from babyvlm.playroom.web import draw_web_image
from babyvlm.playroom.words import nouns

if TYPE_CHECKING:
    from PIL.Image import Image

    from babyvlm.benchmark_builder.items import Item

PROMPT = "a photo of {phrase}, as seen in a home with a small child"


class ImageGenerator(Protocol):
    """Generates an image of a phrase.

    Attributes:
        model: name of the generator, for provenance.
    """

    model: str

    def generate(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """Return an RGB image; None if the phrase cannot be drawn.

        Args:
            phrase: Two words, or a noun.
            prompt: The phrase in a text prompt.
            seed: Random seed.
            like: The image of the positive phrase, for generators that start from it.
        """
        ...


def seed_of(item: Item, seed: int) -> int:
    """Return a seed for an item, below 2**31."""
    return int.from_bytes(hashlib.sha256(f"{seed} {item.name}".encode()).digest()[:4], "big") >> 1


class PlayroomGenerator:
    """Draws things of Playroom in the style of its web images, which differs from that of the home camera."""

    model = "playroom"

    def generate(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """Return the phrase as a drawing; None for a word that Playroom does not have."""
        del prompt, like
        shown = _topic(phrase)
        if shown is None:
            return None
        return draw_web_image(random_stream(seed, "negative", phrase), shown, shown.noun.test_exemplars, 1, test=True)


def _topic(phrase: str) -> Topic | None:
    *words, name = phrase.split()
    named = [noun for noun in nouns() if name in (noun.name, noun.plural)]
    if not named or len(words) > 1 or not all(word in VERBS or word in MODIFIERS for word in words):
        return None
    return topic(named[0], *words)


@dataclass
class DiffusionGenerator:
    """A Diffusers pipeline on this machine. Code from a model's repository is never run.

    Args:
        model: Hub name or folder, in safetensors format.
        steps: Denoising steps.
        strength: How much the positive image is changed, 0 to 1; None starts from the prompt only.
        device: Torch device.
    """

    model: str
    steps: int
    strength: float | None
    device: str

    def __post_init__(self) -> None:
        with require_extra("builder", "--method diffusers"):
            from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
        kind = AutoPipelineForText2Image if self.strength is None else AutoPipelineForImage2Image
        if Path(self.model).is_dir():
            refuse_code(Path(self.model))
        else:
            fetch(self.model, ["*.json"])
        try:
            self._pipeline = kind.from_pretrained(self.model, use_safetensors=True).to(self.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"--model {self.model}: diffusers cannot load it ({first_line(error)})") from None
        self._pipeline.set_progress_bar_config(disable=True)

    def generate(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """Return the image of a prompt, deterministic given the seed; None if a safety checker blocked it."""
        import torch

        del phrase
        how: dict[str, Any] = {"num_inference_steps": self.steps, "generator": torch.Generator("cpu").manual_seed(seed)}
        if self.strength is not None:
            how |= {"image": open_rgb(like), "strength": self.strength}
        output = self._pipeline(prompt, **how)
        if any(getattr(output, "nsfw_content_detected", None) or []):
            return None
        image: Image = output.images[0]
        return image


class ServerGenerator:
    """An OpenAI-style image endpoint. It receives the prompt with the negative phrase, never an image.

    Args:
        model: Name of the model on the server.
        base_url: Including ``/v1``.
        key_file: File with the API key; None reads the environment.
        timeout: Seconds to wait for an image.
        resolution: Of the image, as in ``1024x1024``.
        licensed: The items, if their phrases must not leave this machine.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        key_file: Path | None,
        timeout: float,
        resolution: str,
        licensed: Path | None = None,
    ) -> None:
        with require_extra("llm", "--method server"):
            from babyvlm.curation.rewrite.llm.client import open_server
            from babyvlm.curation.rewrite.llm.responses import MAX_IMAGE_REPLY_BYTES
        self.model, self.resolution = model, resolution
        self._server = open_server(base_url, key_file, timeout, licensed, max_reply_bytes=MAX_IMAGE_REPLY_BYTES)

    def generate(self, phrase: str, prompt: str, seed: int, like: Path) -> Image | None:
        """Return the image of a prompt. Such servers have no seed.

        Raises:
            UserError: the server does not answer, or not with an image.
        """
        from babyvlm.curation.rewrite.llm.client import RequestError

        del phrase, like
        # The seed numbers the attempts, so an interrupted command repeats a request under the key that it had before.
        key = hashlib.sha256(f"{self.model}\0{self.resolution}\0{prompt}\0{seed}".encode()).hexdigest()
        # gpt-image models always return bytes and reject this option.
        how: dict[str, Any] = {} if self.model.startswith("gpt-image") else {"response_format": "b64_json"}
        how |= {
            "model": self.model,
            "prompt": prompt,
            "n": 1,
            "size": self.resolution,
            "extra_headers": {**self._server.headers, "Idempotency-Key": key},
        }
        make: Any = self._server.client.images.generate
        try:
            reply = self._server.send_with_retries(lambda: make(**how))
            self._server.answered = True
            content = reply.data[0].b64_json if getattr(reply, "data", None) else None
            return open_rgb(base64.b64decode(content or "", validate=True))
        except RequestError as error:
            billed = (
                ". The image may have been billed; the same command requests it again" if error.paid != "no" else ""
            )
            raise UserError(f"{self._server.base_url}: {error.reason} ({error.detail}){billed}") from None
        except (BrokenImageError, ValueError) as error:
            raise UserError(f"{self._server.base_url}: returned no image ({error})") from None


def image_generator(
    method: Method,
    prompt: str,
    model: str,
    steps: int,
    strength: float | None,
    device: str,
    base_url: str,
    key_file: Path | None,
    timeout: float,
    resolution: str,
    licensed: Path | None,
) -> ImageGenerator:
    """Return the generator that the options of a command describe.

    Raises:
        UserError: the prompt has no ``{phrase}``, no model is named, or a model or server cannot be used.
    """
    if "{phrase}" not in prompt or (method != "playroom" and not model):
        raise UserError("--prompt must contain {phrase}, and --model must name the model")
    if method == "diffusers":
        return DiffusionGenerator(model, steps, strength, device)
    if method == "server":
        return ServerGenerator(model, base_url, key_file, timeout, resolution, licensed)
    return PlayroomGenerator()


def draw_missing(generator: ImageGenerator, path: Path, phrase: str, prompt: str, seed: int, like: Path) -> bool:
    """Write the image of a phrase to a path if it is not there; return False if the phrase cannot be drawn."""
    if not path.exists():
        image = generator.generate(phrase, prompt, seed, like)
        if image is None:
            return False
        partial = path.with_suffix(".partial")
        partial.write_bytes(to_png(image))
        partial.rename(path)
    return True


def to_png(image: Image) -> bytes:
    """Encode an image losslessly."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


Method = Literal["playroom", "diffusers", "server"]
