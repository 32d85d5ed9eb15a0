"""The authors' utterance numbers: which released frames belong to which row of a SAYCam transcript.

The authors' frames are named ``VIDEO_UTTERANCE_FRAME.jpg``, and UTTERANCE counts the utterances of the transcript. How
utterances are counted changed in June 2022 (commit 1d86578 of github.com/wkvong/multimodal-baby), and it is not public
which rule numbered the 600,285 released frames:

- ``current``: spaCy's sentences, as ``curate frames`` reads them (``transcripts.number_utterances``);
- ``older``: a sentence ends at each ``.``, ``?`` and ``!``, so that a gap between two full stops is an utterance
  without words, which is counted. Only its numbers are used; texts have the one form of ``babyvlm.text``.

Both give an utterance of d whole seconds ``int(d / 0.2)`` frames, 1 to 32. The frame counts show whether a rule fits:
an utterance with a different number of frames than its duration allows is dropped, and so is a video with too many such
utterances, because its numbers have shifted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.curation.ingest.sentences import MISSING, Utterance, divide_turn, frame_times, has_words
from babyvlm.curation.ingest.transcripts import number_utterances, read_turns
from babyvlm.text import normalize, remove_remarks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from babyvlm.curation.ingest.turns import Turn

Rule: TypeAlias = Literal["current", "older"]
RULES: dict[Rule, str] = {"current": "the authors' current rule", "older": "the authors' rule before June 2022"}
MAX_FRAMES = 32
ANNOTATIONS = (r"\*[^)]*\*", r"\[[^)]*\]", r"\([^)]*\)")
SENTENCE_END = re.compile(r"[.?!]")
REMOVED = str.maketrans("", "", "-'*_,…")


class NumberedUtterance(NamedTuple):
    """An utterance as the authors count it: its number, its text, "" if it has none, and its number of frames."""

    number: int
    text: str
    frames: int


def numbered_utterances(path: Path, rule: Rule) -> tuple[str, list[NumberedUtterance]]:
    """Read a SAYCam transcript and number its utterances by one of the authors' rules.

    Returns:
        The name of the video, "" if the authors skipped the transcript (it names no video or several, or has a single
        row); and its utterances.

    Raises:
        UserError: a column is missing, the table is invalid (see `Table`), or spaCy is not installed.
    """
    turns, _ = read_turns(path, SAYCAM)
    videos = {turn.video for turn in turns if turn.video and "part" not in turn.video}
    if len(videos) != 1 or len(turns) <= 1:
        return "", []
    utterances = number_utterances(turns, SAYCAM)[0] if rule == "current" else _number_by_older_rule(turns)
    numbered = [
        NumberedUtterance(
            one.number, one.text if has_words(one) else "", len(frame_times(one, SAYCAM.frame_interval_ms, MAX_FRAMES))
        )
        for one in utterances
    ]
    return re.sub(r"\.\w+$", "", videos.pop()), numbered


def _number_by_older_rule(turns: Iterable[Turn]) -> list[Utterance]:
    utterances: list[Utterance] = []
    for turn in turns:
        if turn.start_ms is None or turn.end_ms is None or turn.speaker not in SAYCAM.caregivers:
            continue
        found = _older_sentences(turn.text or MISSING)
        utterances += divide_turn(found, turn.start_ms, turn.end_ms, SAYCAM.boundary_ms, first=len(utterances) + 1)
    return utterances


def _older_sentences(text: str) -> list[str]:
    """Split as the older rule does; the texts keep their punctuation."""
    for annotation in ANNOTATIONS:
        text = re.sub(annotation, "", text)
    text = re.sub(" +", " ", text).replace("--", " ")
    counted = SENTENCE_END.split(text.translate(REMOVED).strip())
    signs = [*SENTENCE_END.findall(text), ""]
    parts = zip(SENTENCE_END.split(text), signs, counted, strict=True)
    return [normalize(remove_remarks(part + sign)) if words.strip() else "" for part, sign, words in parts if words]
