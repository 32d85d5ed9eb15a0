"""METEOR of captions that repeat their references, token by token, through the text form and a vocabulary.

    python perf/caption_references.py SAYCam_caption.csv

A caption can only be as good as the text form lets it be. The list has the authors' columns ``image,text``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from babyvlm.benchmarks.meteor import meteor_nltk
from babyvlm.benchmarks.meteor_jar import meteor_15
from babyvlm.data.vocabulary import SPECIALS, Vocabulary, create_vocabulary
from babyvlm.io.tables import read_complete_rows
from babyvlm.text import normalize


def repeat(references: Sequence[str], folder: Path) -> list[str]:
    """Return what a model writes that repeats each reference: its tokens, encoded and decoded.

    Args:
        references: captions as listed.
        folder: for the vocabulary of the references, which is created there.
    """
    words = (word for reference in references for word in normalize(reference).split())
    content = {word: index for index, word in enumerate(dict.fromkeys([*SPECIALS, *words]))}
    (folder / "vocab.json").write_text(json.dumps(content))
    create_vocabulary(folder / "vocabulary", from_json=folder / "vocab.json")
    vocabulary = Vocabulary(folder / "vocabulary")
    return [vocabulary.decode(ids) for ids in vocabulary.encode_raw(references, max_tokens=None)]


def mean_scores(references: Sequence[str], folder: Path) -> dict[str, float]:
    """Return the mean METEOR of the repeated references, by each implementation."""
    captions = repeat(references, folder)
    scores = {"METEOR NLTK": meteor_nltk(captions, references), "METEOR 1.5": meteor_15(captions, references)}
    return {name: sum(values) / len(values) for name, values in scores.items()}


def main() -> None:
    """Print the scores of a list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="CSV file with a column text")
    references = [row["text"] for row in read_complete_rows(parser.parse_args().captions, ["text"])]
    with TemporaryDirectory() as folder:
        for name, score in mean_scores(references, Path(folder)).items():
            print(f"{name}: {score:.4f} on {len(references)} references")


if __name__ == "__main__":
    main()
