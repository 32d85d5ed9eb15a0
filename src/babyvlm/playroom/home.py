"""Write home recordings: upside-down videos, and transcripts with the irregularities of SAYCam's.

How often the named thing is visible, how often no thing is named and how long sentences are follow SAYCam in general
(speech is short, and mostly not about what the camera shows); the exact values are our choice.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

import av
import numpy as np

from babyvlm.playroom.actions import skin
from babyvlm.playroom.camera import HEIGHT, WIDTH, Episode, View, random_place, random_view, render_frame
from babyvlm.playroom.language import babble, child_directed_sentence, small_talk
from babyvlm.playroom.topics import EXPONENT, Household, Topic, home_nouns, random_stream, random_topic
from babyvlm.playroom.words import zipf_choice

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

FPS = 5  # as many as `curate frames` extracts
NAMING_RATE = 0.6  # share of a parent's sentences that name a thing (WORLD.md)
MAX_IN_VIEW = NAMING_RATE  # maximum share of sentences whose thing is visible
BARE = 0.35  # share of naming sentences with neither verb nor modifier
CHILDREN = ("S", "A", "Y")  # as many as in SAYCam
_CAREGIVERS = ("M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom")  # as in the SAYCam profile
_OTHERS = ("C", "Child", "child", "Sam", "Grandma", "TV", "brother", "")
_ANNOTATIONS = ("*laughs*", "[baby babbling]", "(whispering)", "[unclear]", "(to dad)", "*sings*")
TRANSCRIPT_COLUMNS = ("Time", "Speaker", "Video Name", "Utterance", "Setting", "Notes")
TRUTH_COLUMNS = ("video", "row", "start_s", "end_s", "caregiver", "utterance", "noun", "in_view")


@dataclass(frozen=True)
class Sentence:
    """One sentence: its words, the noun that it names (or ""), and whether that thing is visible."""

    text: str
    noun: str = ""
    in_view: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a transcript; times are integer seconds from the start of the video."""

    start: int
    end: int
    caregiver: bool
    sentences: tuple[Sentence, ...]


@dataclass
class Recording:
    """A simulated recording: views with their times, and the rows of the transcript."""

    episode: Episode
    views: list[tuple[View, int, int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def video_name(index: int) -> str:
    """Return a name like those in SAYCam: child, date, time of day, part."""
    day = date(2013, 7, 1) + timedelta(days=index // 6)
    part = index // 3 % 2
    return f"{CHILDREN[index % 3]}_{day:%Y%m%d}_{('0914', '1803')[part]}_{part + 1:02d}"


def simulate_recording(rng: random.Random, household: Household, rows: int, in_view: float, lag: int) -> Recording:
    """Simulate an episode.

    Args:
        rng: source of randomness.
        household: the family.
        rows: number of turns.
        in_view: share of the sentences that name a visible thing, before ``lag`` is applied.
        lag: by how many turns a word may precede or follow its referent.
    """
    recording = Recording(Episode(random_place(rng), skin(rng)))
    place = recording.episode.place
    topics: list[Topic] = []
    clock = 0
    for _ in range(rows):  # a view for each turn; the next one often shows the same topic
        if topics and rng.random() < 0.5:
            topics.append(topics[-1])
        else:
            noun = zipf_choice(rng, home_nouns(place), EXPONENT)
            topics.append(random_topic(rng, noun, BARE))
    for turn, topic in enumerate(topics):
        view = random_view(rng, recording.episode, topic, household.exemplars)
        about = topics[min(max(turn + rng.randint(-lag, lag), 0), rows - 1)]
        row = _random_turn(rng, view, about, clock, in_view / MAX_IN_VIEW)
        recording.rows.append(row)
        recording.views.append((view, clock, row.end))
        clock = row.end
    return recording


def _random_turn(rng: random.Random, view: View, about: Topic, start: int, topic_rate: float) -> Row:
    if rng.random() < 0.15:
        return Row(start, start + 1, False, (Sentence(babble(rng)),))
    if rng.random() < 0.02:
        return Row(start, start + 1, True, ())  # only an annotation, so that no words are left
    count = 2 if rng.random() < 0.35 else 1
    sentences = tuple(_random_sentence(rng, view, about, topic_rate) for _ in range(count))
    pause = 2 if rng.random() < 0.05 else 0
    return Row(start, start + count + (1 if rng.random() < 0.4 else 0) + pause, True, sentences)


def _random_sentence(rng: random.Random, view: View, about: Topic, topic_rate: float) -> Sentence:
    if rng.random() > NAMING_RATE:
        return Sentence(small_talk(rng))
    if rng.random() < topic_rate:
        if about.modifier and about.count == 1 and rng.random() < 0.25:  # people often omit what is obvious
            about = Topic(about.noun)
        return Sentence(child_directed_sentence(about, rng), about.noun.name, about.noun.name in view.visible)
    absent = view.topic.noun if view.topic else about.noun
    while absent.name in view.visible:
        absent = zipf_choice(rng, home_nouns(), EXPONENT)
    return Sentence(child_directed_sentence(random_topic(rng, absent, BARE), rng), absent.name, False)


def write_video_file(recording: Recording, path: Path) -> None:
    """Write the video: H.264, 5 frames per second, upside down like SAYCam's camera."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        # One encoder thread, so that the bytes do not depend on the machine's cores.
        options = {"preset": "superfast", "crf": "23", "threads": "1"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for view, start, end in recording.views:
            for step in range((end - start) * FPS):
                image = render_frame(view, step / FPS, upside_down=True)
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(video.encode())


def write_transcript(recording: Recording, name: str, path: Path, rng: random.Random) -> None:
    """Write the transcript, with the irregularities of hand-made ones."""
    format_time = rng.choice((_minutes, _minutes, _padded, _hours))
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(TRANSCRIPT_COLUMNS)
        for row in recording.rows:
            speaker = rng.choice(_CAREGIVERS if row.caregiver else _OTHERS)
            video = name + (".mp4" if rng.random() < 0.1 else "")
            note = rng.choice(("", "", "", "", "hard to hear", "?"))
            out.writerow(
                (
                    _typed_time(rng, row, format_time),
                    speaker,
                    video,
                    _typed_utterance(rng, row),
                    recording.episode.place,
                    note,
                )
            )


def _minutes(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"


def _padded(seconds: int) -> str:
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _hours(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _typed_time(rng: random.Random, row: Row, format_time: Callable[[int], str]) -> str:
    draw = rng.random()
    if draw < 0.02:
        return ""
    if draw < 0.06:
        return f"{format_time(row.start)}{rng.choice(('-', ' - '))}{format_time(row.end)}"
    return format_time(row.start)


def _typed_utterance(rng: random.Random, row: Row) -> str:
    if not row.sentences:
        return rng.choice(_ANNOTATIONS)
    parts = []
    for position, sentence in enumerate(row.sentences):
        text = sentence.text
        is_question = text.endswith("?")
        text = text.rstrip("?")
        if rng.random() < 0.04:
            text += " inaudible"
        if rng.random() < 0.08:
            text = f"{text} {rng.choice(_ANNOTATIONS)}"
        if rng.random() < 0.6:
            text = text[:1].upper() + text[1:]
        is_last = position == len(row.sentences) - 1
        parts.append(text + ("?" if is_question else "" if is_last and rng.random() < 0.3 else rng.choice("...!")))
    if rng.random() < 0.06:
        parts.insert(0, rng.choice(_ANNOTATIONS))
    return " ".join(parts)


def write_video(home: Path, seed: int, index: int, rows: int, in_view: float, lag: int) -> list[tuple[object, ...]]:
    """Write one video and its transcript to ``home/videos`` and ``home/transcripts``. Return its rows of truth.csv."""
    name = video_name(index)
    household = Household(seed, name[0])
    recording = simulate_recording(random_stream(seed, "home", index), household, rows, in_view, lag)
    write_video_file(recording, home / "videos" / f"{name}.mp4")
    write_transcript(recording, name, home / "transcripts" / f"{name}.csv", random_stream(seed, "transcript", index))
    return [
        (name, number, row.start, row.end, int(row.caregiver), sentence.text, sentence.noun, int(sentence.in_view))
        for number, row in enumerate(recording.rows)
        for sentence in row.sentences
    ]
