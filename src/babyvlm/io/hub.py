"""Model folders that somebody else made: what is fetched of them, and what is refused before a library reads them.

transformers, diffusers and open_clip run Python files of a model's repository if its configuration asks for it and a
caller, or an answer at a prompt, agrees. Here nothing agrees, and nobody is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json

REACH_SECONDS: Final = 5  # our choice
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# Code (`auto_map`, `custom_pipelines`), the consent to it, and files or addresses that another library would read.
REFUSED_KEYS: Final = frozenset(
    (
        "auto_map",
        "cache_dir",
        "checkpoint_path",
        "custom_generate",
        "custom_pipelines",
        "hf_model_name",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "trust_remote_code",
    )
)
# Plain names; with `ORG/NAME` the first two ask for a kernel, which is code, and the last for another repository.
_NAMES: Final = ("attn_implementation", "_attn_implementation", "timm_model_name")
_ANOTHER_MODEL: Final = "adapter_config.json"  # names the model to load in this one's place


def fetch(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Download the files of a Hugging Face hub model that match; Python files never do.

    Args:
        name: ``ORG/NAME``.
        patterns: names of files, such as ``*.json``.
        revision: commit; by default the newest.

    Returns:
        Their folder in the cache, after ``refuse_code``.

    Raises:
        UserError: there is no such model, the hub cannot be reached, or the model asks for code.
    """
    try:
        with asked_once():
            found = snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*.py", "*.pkl"]
            )
        folder = Path(found)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: no such folder, and the hub does not provide it ({first_line(error)}). {without_internet(name)}"
        ) from error
    refuse_code(folder)
    return folder


@contextmanager
def asked_once() -> Iterator[None]:
    """Ask the hub once whether it can be reached; if not, use only what is cached, without a minute of attempts."""
    if constants.HF_HUB_OFFLINE or _is_reachable():
        yield
        return
    constants.HF_HUB_OFFLINE = True  # which the hub's library, and those that use it, read at each call
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _is_reachable() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception:  # of the HTTP library, which the hub's library has changed before
        return False
    return True


def without_internet(name: str, file: str = "") -> str:
    """Return how to use a model of the hub on a machine that cannot reach it, for an error message."""
    words = " ".join(filter(None, [f"hf download {name}", file, "--local-dir FOLDER"]))
    return f"Without internet access, run `{words}` on another machine, and pass {file and 'the file in '}this folder"


def commit_of(path: Path) -> str | None:
    """Return the commit of a file or folder in the cache of the Hugging Face hub; None if it lies elsewhere."""
    parts = path.absolute().parts
    return next((commit for name, commit in pairwise(parts) if name == "snapshots" and COMMIT.fullmatch(commit)), None)


def refuse_code(folder: Path) -> None:
    """Refuse a model folder whose configuration asks for code, or for another model's files.

    Raises:
        UserError: the message names the file and the key.
    """
    for file in sorted(folder.rglob("*.json")):
        if file.name == _ANOTHER_MODEL:
            raise UserError(f"{file}: adapters of another model are not loaded")
        if not file.name.endswith("config.json") and file.name != "model_index.json":
            continue  # vocabularies and weights' indices: their keys are words
        try:
            settings = load_json(read_bounded(file, MAX_JSON_BYTES).decode())
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read as JSON ({first_line(error)})") from None
        if file.name == "model_index.json":
            _check_components(file, settings)
        for key, value in _items(settings):
            if key in REFUSED_KEYS and value not in (None, False):
                raise UserError(f"{file}: `{key}` asks for code or files from elsewhere; such models are not loaded")
            if key in _NAMES and re.search(r"[/:]", str(value)):
                raise UserError(f"{file}: `{key}: {value}` asks for code or files from elsewhere; it is not loaded")


def _check_components(file: Path, settings: object) -> None:
    """Refuse a diffusers pipeline with parts outside diffusers and transformers: it would import their modules."""
    for name, part in settings.items() if isinstance(settings, dict) else ():
        if (
            isinstance(part, list)
            and part[:1]
            and part[0] not in (None, "diffusers", "transformers", "stable_diffusion")
        ):
            raise UserError(f"{file}: `{name}` is a class of {part[0]}; only diffusers and transformers are loaded")


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)
