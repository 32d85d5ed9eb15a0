"""Photographs of Tux Paint (Debian's ``tuxpaint-stamps-default``, GPL-2), read where they are installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from babyvlm.benchmarks.object_trials import OPTIONS, PER_CATEGORY, ObjectTrials
from babyvlm.benchmarks.trials import Trial
from babyvlm.curation.rewrite.rules.lexicon import lexicon
from babyvlm.data.vocabulary import UNK, Vocabulary
from babyvlm.errors import UserError

FOLDER = Path("/usr/share/tuxpaint/stamps")
NOT_PHOTOGRAPHS = frozenset(("cartoon", "symbols"))  # folders of drawings, letters, and coins
# `An old Chinese sailing ship.` shows a ship. Longer texts tell stories, whose last word names nothing.
DESCRIPTION = re.compile(r"(?:an?|the|one|some)?\s*(?:[\w'’-]+\s+){0,4}?([a-z]+)[.!]?", re.IGNORECASE)


class TuxPaintStamps(ObjectTrials):
    """N-way trials over cut-out photographs of things, for models that were trained on drawn scenes.

    The noun of a stamp is the last word of its one-line English description. Drawings and symbols are left out. Nothing
    is copied: the package stays where it is installed (``apt install tuxpaint-stamps-default``).

    Args:
        trials: folder of the stamps.
        vocabulary: keep the nouns in the vocabulary of this folder; by default those that a toddler knows
            (``toddler_words.txt``).
        choose: as in ``ObjectTrials``.
        options: as in ``ObjectTrials``.
        per_category: as in ``ObjectTrials``.
        seed: as in ``ObjectTrials``.
        categories: use only these nouns.
        variant: as in ``Benchmark``.
    """

    name = "stamps"
    title = "Photographs"
    order = 110

    def __init__(
        self,
        trials: Path | str = FOLDER,
        vocabulary: Path | str | None = None,
        choose: Literal["image", "word"] = "image",
        options: int = OPTIONS,
        per_category: int = PER_CATEGORY,
        seed: int = 0,
        categories: list[str] | None = None,
        variant: str = "",
    ) -> None:
        super().__init__(
            trials,
            choose=choose,
            options=options,
            per_category=per_category,
            seed=seed,
            categories=categories,
            variant=variant,
        )
        self.vocabulary = None if vocabulary is None else Vocabulary(Path(vocabulary))

    def read(self, path: Path) -> list[Trial]:
        """Return trials drawn from the photographs.

        Raises:
            UserError: the package is not installed there, or has too few photographs of known nouns.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such folder. Install the stamps: apt install tuxpaint-stamps-default")
        return super().read(path)

    def pictures(self, path: Path) -> dict[str, list[str]]:
        """Return the photographs of each noun, as sorted paths below ``path``."""
        found: dict[str, list[str]] = {}
        for file in sorted(path.rglob("*.png")):
            place = file.relative_to(path)
            noun = noun_of(file.with_suffix(".txt")) if NOT_PHOTOGRAPHS.isdisjoint(place.parts) else ""
            if noun and self._is_known(noun):
                found.setdefault(noun, []).append(place.as_posix())
        return found

    def _is_known(self, noun: str) -> bool:
        if self.vocabulary is not None:
            return UNK not in self.vocabulary.encode_raw([noun])[0]
        return any(word.kind in ("thing", "mass", "people") for word in lexicon().get(noun, ()))


def noun_of(description: Path) -> str:
    """Return the noun of a stamp's description: its last word; empty if it is no short description."""
    try:
        lines = description.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = DESCRIPTION.fullmatch(lines[0].strip()) if lines else None
    return found[1].lower() if found else ""
