"""Home recordings: videos turned upside down, and transcripts with all the dirt of SAYCam's.

How often what is named is in view, how often nothing is named and how long a sentence takes are set after SAYCam's
general nature (talk is short, and mostly not about what the camera shows); the exact values are our choice.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

import av
import numpy as np

from babyvlm.playroom.camera import (
    ATTENDS,
    HEIGHT,
    WIDTH,
    Episode,
    View,
    frame,
    home_topic,
    random_episode,
    random_view,
)
from babyvlm.playroom.language import babble, child_directed, small_talk
from babyvlm.playroom.world import VERBS, Topic, pick_home_thing, random_topic, stream

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

FPS = 5  # frames that a reader takes a second (spec.md, section 3)
NAMES_A_THING = 0.8  # of a parent's sentences
MOST_IN_VIEW = NAMES_A_THING * ATTENDS  # no larger share of sentences can name what is seen
_CAREGIVERS = ("M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom")  # spec.md, section 3
_OTHERS = ("C", "Child", "child", "Sam", "Grandma", "TV", "brother", "")
_ASIDES = ("*laughs*", "[baby babbling]", "(whispering)", "[unclear]", "(to dad)", "*sings*")
TRANSCRIPT_COLUMNS = ("Time", "Speaker", "Video Name", "Utterance", "Setting", "Notes")
TRUTH_COLUMNS = ("video", "row", "start_s", "end_s", "caregiver", "utterance", "thing", "in_view")


@dataclass(frozen=True)
class Said:
    """One sentence: its words, the thing it names (or ""), and whether that could be seen."""

    text: str
    thing: str = ""
    in_view: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a transcript; times are whole seconds from the video's start."""

    start: int
    end: int
    caregiver: bool
    said: tuple[Said, ...]


@dataclass
class Recording:
    """A video before it is filmed: views with their times, and the rows of talk."""

    episode: Episode
    views: list[tuple[View, int, int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def video_name(index: int) -> str:
    """A name like SAYCam's: child, date, time of day, part."""
    day = date(2013, 7, 1) + timedelta(days=index // 2)
    return f"S_{day:%Y%m%d}_{'1803' if index % 2 else '0914'}_{index % 2 + 1:02d}"


def record(rng: random.Random, rows: int, in_view: float) -> Recording:
    """Let an episode happen: ``rows`` turns of talk, in which a share ``in_view`` of sentences name what is seen."""
    recording = Recording(random_episode(rng))
    sees = in_view / MOST_IN_VIEW
    clock = 0
    while len(recording.rows) < rows:
        topic = home_topic(rng, recording.episode) if rng.random() < ATTENDS else None
        view = random_view(rng, recording.episode, topic)
        start = clock
        for _ in range(min(rng.choice((1, 2, 2, 3)), rows - len(recording.rows))):
            row = _turn(rng, view, clock, sees)
            recording.rows.append(row)
            clock = row.end
        recording.views.append((view, start, clock))
    return recording


def _turn(rng: random.Random, view: View, start: int, sees: float) -> Row:
    if rng.random() < 0.15:
        return Row(start, start + 1, False, (Said(babble(rng)),))
    if rng.random() < 0.02:
        return Row(start, start + 1, True, ())  # nothing is left of it once asides are taken out
    count = 2 if rng.random() < 0.35 else 1
    said = tuple(_sentence(rng, view, sees) for _ in range(count))
    pause = 2 if rng.random() < 0.05 else 0
    return Row(start, start + count + (1 if rng.random() < 0.4 else 0) + pause, True, said)


def _sentence(rng: random.Random, view: View, sees: float) -> Said:
    if rng.random() > NAMES_A_THING:
        return Said(small_talk(rng))
    topic = view.topic
    if topic and rng.random() < sees:
        if not topic.count and rng.random() < 0.25:  # people often leave out what everybody sees
            topic = Topic(topic.thing)
        return Said(child_directed(topic, rng), topic.thing.name, True)
    hidden = {*view.shown, *(VERBS[topic.verb].hides if topic and topic.verb else ())}
    absent = pick_home_thing(rng, hidden=hidden)
    return Said(child_directed(random_topic(rng, absent), rng), absent.name, False)


def film(recording: Recording, path: Path, rng: random.Random) -> None:
    """Write the video: H.264, 5 frames a second, upside down as the camera was worn."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        # One encoder thread, so that the bytes do not depend on the machine's cores.
        options = {"preset": "superfast", "crf": "23", "threads": "1"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for view, start, end in recording.views:
            for step in range((end - start) * FPS):
                picture = frame(view, step / FPS, rng, upside_down=True)
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(video.encode())


def transcribe(recording: Recording, name: str, path: Path, rng: random.Random) -> None:
    """Write the transcript, dirt and all."""
    spell = rng.choice((_minutes, _minutes, _padded, _hours))
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(TRANSCRIPT_COLUMNS)
        for row in recording.rows:
            speaker = rng.choice(_CAREGIVERS if row.caregiver else _OTHERS)
            shown = name + (".mp4" if rng.random() < 0.1 else "")
            note = rng.choice(("", "", "", "", "hard to hear", "?"))
            out.writerow((_time(rng, row, spell), speaker, shown, _utterance(rng, row), recording.episode.place, note))


def _minutes(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"


def _padded(seconds: int) -> str:
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _hours(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _time(rng: random.Random, row: Row, spell: Callable[[int], str]) -> str:
    chance = rng.random()
    if chance < 0.02:
        return ""
    if chance < 0.06:
        return f"{spell(row.start)}{rng.choice(('-', ' - '))}{spell(row.end)}"
    return spell(row.start)


def _utterance(rng: random.Random, row: Row) -> str:
    if not row.said:
        return rng.choice(_ASIDES)
    parts = []
    for place, sentence in enumerate(row.said):
        text = sentence.text
        asks = text.endswith("?")
        text = text.rstrip("?")
        if rng.random() < 0.04:
            text += " inaudible"
        if rng.random() < 0.08:
            text = f"{text} {rng.choice(_ASIDES)}"
        if rng.random() < 0.6:
            text = text[:1].upper() + text[1:]
        last = place == len(row.said) - 1
        parts.append(text + ("?" if asks else "" if last and rng.random() < 0.3 else rng.choice("...!")))
    if rng.random() < 0.06:
        parts.insert(0, rng.choice(_ASIDES))
    return " ".join(parts)


def write_video(home: Path, seed: int, index: int, rows: int, in_view: float) -> list[tuple[object, ...]]:
    """Make one video and its transcript in ``home/videos`` and ``home/transcripts``; returns its rows of the truth."""
    name = video_name(index)
    recording = record(stream(seed, "home", index), rows, in_view)
    film(recording, home / "videos" / f"{name}.mp4", stream(seed, "film", index))
    transcribe(recording, name, home / "transcripts" / f"{name}.csv", stream(seed, "transcript", index))
    return [
        (name, number, row.start, row.end, int(row.caregiver), said.text, said.thing, int(said.in_view))
        for number, row in enumerate(recording.rows)
        for said in row.said
    ]
