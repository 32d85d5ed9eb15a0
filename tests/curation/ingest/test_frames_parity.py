"""Each utterance gets exactly the frames that the rules say: derived here from the talk, not from its text."""

import bisect
import io
import math
import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.store.pair_store import PairStore
from support.filming import WORDS_HEADER, read_number, write_transcript, write_video

SECONDS = 75  # longer than any talk
CAREGIVERS = ["M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"]
NOISE = ["*laughs. loudly*", "[points?]", "(to dad!)", "[a] ", "*sings*", "--"]
WORDS = {
    "Look": "look",
    "the": "the",
    "ball,": "ball",
    "don't": "dont",
    "uh-oh": "uhoh",
    "Inaudible": "<unk>",
    "MAMA": "mama",
    "7": "7",
    "peek_a": "peeka",
    "'hey'": "hey",
}
ENDS = [".", "?", "!", "...", "?!", ". . ."]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Videos of several rates and their frames' first moments, in milliseconds."""
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for name, fps in (("5", 5), ("24", 24), ("ntsc", Fraction(30000, 1001))):
        starts = [number * 1000 / Fraction(fps) for number in range(math.ceil(SECONDS * fps))]
        write_video(folder / f"{name}.mp4", len(starts), fps=fps)
        made[name] = starts
    chance = random.Random(0)
    for name, rotation, suffix in (("uneven", 0, "mp4"), ("onitsside", 90, "mp4"), ("uneven2", 0, "mkv")):
        starts = [0]
        while starts[-1] < SECONDS * 1000 - 900:
            starts.append(starts[-1] + chance.choice([20, 33, 50, 100, 100, 900]))
        write_video(folder / f"{name}.{suffix}", starts_ms=starts, rotation=rotation)
        made[name] = starts
    return folder, made


def shown(starts, time_ms):
    """Number of the frame on the screen."""
    return bisect.bisect_right(starts, time_ms) - 1


def spellings(second):
    minutes, rest = divmod(second, 60)
    ways = [
        f"{minutes}:{rest:02}",
        f"{minutes}.{rest:02}",
        f" {minutes};{rest:02} ",
        f"{minutes},{rest:02}",
        f"0:{minutes:02}:{rest:02}",
        f"{minutes}:{rest:02}-9:59",
        f"{minutes}:{rest:02} – 9:59",
    ]
    ways += [f":{rest:02}"] * (minutes == 0) + [str(minutes)] * (rest == 0)
    ways += [f"{minutes}:{rest // 10}"] * (rest in (10, 20, 30, 40, 50)) + [f"{minutes}:{rest}"] * (6 <= rest <= 9)
    return ways


@st.composite
def sentences(draw):
    """A sentence as typed, and as it is to be read."""
    words = draw(st.lists(st.sampled_from(list(WORDS)), min_size=1, max_size=3))
    parts = []
    for word in words:
        parts += draw(st.lists(st.sampled_from(NOISE), max_size=1))
        parts.append(word)
    return " ".join(parts), " ".join(WORDS[word] for word in words)


@st.composite
def talk(draw):
    """Rows as typed, and (start, end, sentences) in seconds of those that count."""
    second, rows, starts = draw(st.integers(0, 3)), [], []
    for _ in range(draw(st.integers(1, 7))):
        said = draw(st.lists(sentences(), max_size=4))
        text = "".join(typed + draw(st.sampled_from(ENDS)) + " " for typed, _ in said)
        mother = draw(st.booleans())
        speaker = draw(st.sampled_from(CAREGIVERS if mother else ["C", "child", "", "MOM"]))
        timed = draw(st.integers(0, 9)) > 0
        time = draw(st.sampled_from(spellings(second))) if timed else draw(st.sampled_from(["", "soon", "-"]))
        rows.append([time, speaker, "", text or draw(st.sampled_from(["", "*cries*", "...", "(no. words)"]))])
        starts.append((second if timed else None, mother, [read for _, read in said]))
        rows += [["", "", "", ""]] * draw(st.integers(0, 1))
        second += draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 11]))
    ends = [start for start, _, _ in starts[1:]] + [starts[-1][0]]
    counted = [
        (start, end, said)
        for (start, mother, said), end in zip(starts, ends, strict=True)
        if mother and said and start is not None and end is not None
    ]
    return rows, counted


def frames_of(counted, most):
    """Text and moments (milliseconds) of each utterance: a row's time divided evenly among its sentences."""
    for start, end, said in counted:
        for index, text in enumerate(said):
            begin, stop = (math.floor(start + Fraction((end - start) * part, len(said))) for part in (index, index + 1))
            count = min(most, max(1, (stop - begin) * 1000 // 200))
            yield text, [begin * 1000 + 200 * frame for frame in range(count)]


def stored(store, **crop):
    """Text and frame numbers of each utterance in a store."""
    found = {}
    for row in store.rows():
        number = read_number(Image.open(io.BytesIO(row["image"])), **crop)
        found.setdefault((row["group"], row["utterance"]), []).append(number)
    return [(text, numbers) for (_, text), numbers in found.items()]


def check_saycam(folder, films, name, said, most):
    videos, starts = films
    rows, counted = said
    write_transcript(folder / "transcripts" / f"{name}.csv", rows)
    expected = [(text, [shown(starts[name], time) for time in times]) for text, times in frames_of(counted, most)]
    if not expected:
        return
    frames(videos, folder / "transcripts", folder / "store", max_frames=most, num_workers=1)
    assert stored(PairStore(folder / "store")) == expected


CASE = st.tuples(
    st.sampled_from(["5", "24", "ntsc", "uneven", "onitsside", "uneven2"]), talk(), st.sampled_from([1, 16, 32])
)
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@QUICK
@given(CASE)
def test_saycam(films, tmp_path_factory, case):
    check_saycam(tmp_path_factory.mktemp("corpus"), films, *case)


@pytest.mark.soak
@settings(QUICK, max_examples=1000)
@given(CASE)
def test_saycam_long(films, tmp_path_factory, case):
    check_saycam(tmp_path_factory.mktemp("corpus"), films, *case)


BABYVIEW = [
    "token_id",
    "utterance_id",
    "utterance",
    "token_num",
    "token",
    "token_start_time",
    "token_end_time",
    "speaker",
]


def machine_spellings(time_ms):
    minutes, rest = divmod(time_ms, 60_000)
    seconds = f"{rest // 1000}.{rest % 1000:03}"
    return [f"{time_ms / 1000:.3f}", f"{minutes}:{seconds:0>6}", f"00:{minutes:02}:{seconds:0>6}"]


@st.composite
def whispered(draw):
    """Rows as BabyView's transcripts have them, a word a row; and (start, end, sentences) in ms of those that count."""
    start, rows, counted = draw(st.integers(0, 3000)), [], []
    for number in range(draw(st.integers(1, 6))):
        said = draw(st.lists(sentences(), min_size=1, max_size=3))
        text = "".join(f"{typed}. " for typed, _ in said)
        speaker = draw(st.sampled_from(["FEM", "MAL", "KCHI", "CHI", "unknown"]))
        words = draw(st.lists(st.integers(0, 3000), min_size=1, max_size=5))
        time = start
        for place, length in enumerate(words):
            times = [draw(st.sampled_from(machine_spellings(moment))) for moment in (time, time + length)]
            rows.append([len(rows), number, text, place, "word", *times, speaker])
            time += length
        if speaker in ("FEM", "MAL"):
            counted.append((start, time, [read for _, read in said]))
        start += draw(st.integers(0, 9000))  # often before the one before has ended
    return rows, counted


@QUICK
@given(st.sampled_from(["5", "24", "ntsc", "uneven", "onitsside"]), whispered(), st.sampled_from([1, 16]))
def test_babyview(films, tmp_path_factory, name, said, most):
    folder, (videos, starts), (rows, counted) = tmp_path_factory.mktemp("corpus"), films, said
    write_transcript(folder / "transcripts" / "participant" / f"{name}.csv", rows, WORDS_HEADER)
    expected = []
    for start, end, texts in counted:
        cuts = [start + (end - start) * part // len(texts) for part in range(len(texts) + 1)]
        for text, begin, stop in zip(texts, cuts[:-1], cuts[1:], strict=True):
            times = [begin + 200 * frame for frame in range(min(most, max(1, (stop - begin) // 200)))]
            expected.append((text, [shown(starts[name], time) for time in times]))
    if not expected:
        return
    frames(videos, folder / "transcripts", folder / "store", profile="babyview", max_frames=most, num_workers=1)
    assert stored(PairStore(folder / "store"), turned=False, up=0) == expected
