"""Optional dependencies."""

from __future__ import annotations

import re
import shlex
import tomllib
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator


# Packages that the core does not need, and the extra of pyproject.toml that installs each.
EXTRAS = {
    "pylangacq": "transcripts",
    "pysubs2": "transcripts",
    "openai": "llm",
    "tenacity": "llm",
    "wordfreq": "llm",
    "diffusers": "builder",
    "werkzeug": "review",
    "jinja2": "report",
    "pandas": "report",
    "statsmodels": "report",
    "sklearn": "probe",
    "lightly": "dino",
    "spacy": "text",
}


def missing_package(error: ImportError) -> str | None:
    """Return how to install the optional package whose import failed, or None if it is not one of ``EXTRAS``."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this command needs {package}. {how_to_install(EXTRAS[package])}"


def how_to_install(extra: str) -> str:
    """Return the sentence that says how to install the packages of an extra.

    It names the packages, not ``babyvlm[extra]``, which pip would look up on PyPI, where there is no babyvlm.
    """
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    if pyproject.is_file():  # a checkout, whose installed metadata may be older
        packages = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"].get(extra, [])
    else:
        required = [line.partition(";") for line in metadata.requires("babyvlm") or []]
        marked = re.compile(rf"extra == ['\"]{extra}['\"]")
        packages = [package.strip() for package, _, marker in required if marked.search(marker)]
    return f"Install it with: pip install {' '.join(map(shlex.quote, packages))}"


@contextmanager
def require_extra(extra: str, feature: str) -> Iterator[None]:
    """Report a missing optional package in one line. Put the imports that need it into the block.

    >>> with require_extra("llm", "--method llm"):
    ...     import json

    Args:
        extra: the extra of ``pyproject.toml`` that installs the package.
        feature: what needs it, as the user asked for it: an option, a command or a class.

    Raises:
        UserError: a package of the extra is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "babyvlm":  # a mistake in this package, not a missing one
            raise
        missing = f"needs {package}" if package else f"cannot be used: {first_line(error)}"
        raise UserError(f"{feature} {missing.rstrip('.')}. {how_to_install(extra)}") from error
