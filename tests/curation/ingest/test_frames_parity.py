"""Compare `curate frames` with an independent derivation: expected frames follow from the generated conversation."""

import bisect
import io
import math
import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.store.pair_store import PairStore
from support.filming import WORDS_HEADER, read_number, write_transcript, write_video

SECONDS = 75  # longer than any conversation
CAREGIVERS = ["M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"]
NOISE = ["*laughs. loudly*", "[points?]", "(to dad!)", "[a]", "*sings*"]
FIRST_WORDS = {"Look": "look", "MAMA": "mama", "Don't": "do n't", "I'm": "i 'm"}
WORDS = {
    "the": "the",
    "ball,": "ball ,",
    "don't": "do n't",
    "uh-oh": "uh - oh",
    "inaudible": "<unk>",
    "7": "7",
    "peek_a": "peek_a",
    "'hey'": "' hey '",
    "--": "--",
}
ENDS = {".": ".", "?": "?", "!": "!", "...": "...", "?!": "? !", ". . .": ". . ."}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a folder of videos with several frame rates, and the start times of their frames in milliseconds."""
    folder = tmp_path_factory.mktemp("videos")
    starts_of = {}
    for name, fps in (("5", 5), ("24", 24), ("ntsc", Fraction(30000, 1001))):
        starts = [number * 1000 / Fraction(fps) for number in range(math.ceil(SECONDS * fps))]
        write_video(folder / f"{name}.mp4", len(starts), fps=fps)
        starts_of[name] = starts
    rng = random.Random(0)
    for name, rotation, suffix in (("uneven", 0, "mp4"), ("onitsside", 90, "mp4"), ("uneven2", 0, "mkv")):
        starts = [0]
        while starts[-1] < SECONDS * 1000 - 900:
            starts.append(starts[-1] + rng.choice([20, 33, 50, 100, 100, 900]))
        write_video(folder / f"{name}.{suffix}", starts_ms=starts, rotation=rotation)
        starts_of[name] = starts
    return folder, starts_of


def frame_number_at(starts, time_ms):
    """Return the number of the frame that is shown at a time."""
    return bisect.bisect_right(starts, time_ms) - 1


def time_spellings(second):
    """Return the ways in which a transcriber may type a time."""
    minutes, rest = divmod(second, 60)
    ways = [
        f"{minutes}:{rest:02}",
        f"{minutes}.{rest:02}",
        f" {minutes};{rest:02} ",
        f"{minutes},{rest:02}",
        f"{minutes}:{rest:02}.7",
        f"{minutes}:{rest:02}-9:59",
    ]
    ways += [f":{rest:02}"] * (minutes == 0) + [str(minutes)] * (rest == 0)
    ways += [f"{minutes}:{rest // 10}"] * (rest in (10, 20, 30, 40, 50)) + [f"{minutes}:{rest}"] * (6 <= rest <= 9)
    return ways


@st.composite
def sentences(draw):
    """Draw a sentence as typed and as it must be read. It starts with a capital letter."""
    first = draw(st.sampled_from(list(FIRST_WORDS)))
    words = draw(st.lists(st.sampled_from(list(WORDS)), max_size=2))
    end = draw(st.sampled_from(list(ENDS)))
    typed = " ".join([first, *words]) + end
    return typed, " ".join([FIRST_WORDS[first], *(WORDS[word] for word in words), ENDS[end]])


@st.composite
def turns(draw, min_size=0):
    """Draw the text of a turn, with at most one remark before one of its words, and its sentences."""
    found = draw(st.lists(sentences(), min_size=min_size, max_size=4))
    words = " ".join(typed for typed, _ in found).split(" ")
    if draw(st.booleans()):
        words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from(NOISE)))
    return " ".join(words), [read for _, read in found]


@st.composite
def conversations(draw):
    """Draw rows as typed, and (start, end, sentences) of the rows that count, in seconds."""
    second, rows, starts = draw(st.integers(0, 3)), [], []
    for _ in range(draw(st.integers(1, 7))):
        text, texts = draw(turns())
        mother = draw(st.booleans())
        speaker = draw(st.sampled_from(CAREGIVERS if mother else ["C", "child", "", "MOM"]))
        timed = draw(st.integers(0, 9)) > 0
        time = draw(st.sampled_from(time_spellings(second))) if timed else draw(st.sampled_from(["", "soon", "-"]))
        rows.append([time, speaker, "", text if texts else draw(st.sampled_from(["", "*cries*", "(no. words)"]))])
        starts.append((second if timed else None, mother, texts))
        if draw(st.integers(0, 3)) == 0:
            rows.append(["", "", "", ""])
            starts.append((None, False, []))
        second += draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 11]))
    ends = [start for start, _, _ in starts[1:]] + [starts[-1][0]]
    counted = [
        (start, end, texts)
        for (start, mother, texts), end in zip(starts, ends, strict=True)
        if len(rows) > 1 and mother and texts and start is not None and end is not None
    ]
    return rows, counted


def expected_frames(counted, max_frames):
    """Yield text and frame times (ms) of each utterance: a row's time is divided evenly among its sentences."""
    for start, end, texts in counted:
        for index, text in enumerate(texts):
            begin, stop = (
                math.floor(start + Fraction((end - start) * part, len(texts))) for part in (index, index + 1)
            )
            count = min(max_frames, max(1, (stop - begin) * 1000 // 200))
            yield text, [begin * 1000 + 200 * frame for frame in range(count)]


def stored_frames(store, **crop):
    """Return text and frame numbers of each utterance in a store."""
    found = {}
    for row in store.rows():
        number = read_number(Image.open(io.BytesIO(row["image"])), **crop)
        found.setdefault((row["group"], row["utterance"]), []).append(number)
    return [(" ".join(text.split()), numbers) for (_, text), numbers in found.items()]  # blanks beside remarks remain


def check_saycam(folder, videos, name, conversation, max_frames):
    video_folder, starts = videos
    rows, counted = conversation
    write_transcript(folder / "transcripts" / f"{name}.csv", rows)
    expected = [
        (text, [frame_number_at(starts[name], time) for time in times])
        for text, times in expected_frames(counted, max_frames)
    ]
    if not expected:
        return
    (folder / "rules.yaml").write_text("base: saycam\nsplitter: rules\n")  # spaCy: see test_authors_text
    options = {"profile": str(folder / "rules.yaml"), "max_frames": max_frames, "num_workers": 1, "min_fraction": 0}
    frames(video_folder, folder / "transcripts", folder / "store", **options)
    assert stored_frames(PairStore(folder / "store")) == expected


CASE = st.tuples(
    st.sampled_from(["5", "24", "ntsc", "uneven", "onitsside", "uneven2"]),
    conversations(),
    st.sampled_from([1, 16, 32]),
)
QUICK = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@QUICK
@given(CASE)
def test_frames_saycam_matches_derivation(videos, tmp_path_factory, case):
    check_saycam(tmp_path_factory.mktemp("corpus"), videos, *case)


@pytest.mark.soak
@settings(QUICK, max_examples=1000)
@given(CASE)
def test_frames_saycam_matches_derivation_long(videos, tmp_path_factory, case):
    check_saycam(tmp_path_factory.mktemp("corpus"), videos, *case)


def timestamp_spellings(time_ms):
    minutes, rest = divmod(time_ms, 60_000)
    seconds = f"{rest // 1000}.{rest % 1000:03}"
    return [f"{time_ms / 1000:.3f}", f"{minutes}:{seconds:0>6}", f"00:{minutes:02}:{seconds:0>6}"]


@st.composite
def word_transcripts(draw):
    """Draw rows as in BabyView, one per word, and (start, end, sentences) of the turns that count, in milliseconds."""
    start, rows, counted = draw(st.integers(0, 3000)), [], []
    for number in range(draw(st.integers(1, 6))):
        text, texts = draw(turns(min_size=1))
        speaker = draw(st.sampled_from(["FEM", "MAL", "KCHI", "CHI", "unknown"]))
        words = draw(st.lists(st.integers(0, 3000), min_size=1, max_size=5))
        time = start
        for place, length in enumerate(words):
            times = [draw(st.sampled_from(timestamp_spellings(moment))) for moment in (time, time + length)]
            rows.append([len(rows), number, text, place, "word", *times, speaker])
            time += length
        if speaker in ("FEM", "MAL"):
            counted.append((start, time, texts))
        start += draw(st.integers(0, 9000))  # often before the one before has ended
    return rows, counted


@QUICK
@given(st.sampled_from(["5", "24", "ntsc", "uneven", "onitsside"]), word_transcripts(), st.sampled_from([1, 16]))
def test_frames_babyview_matches_derivation(videos, tmp_path_factory, name, conversation, max_frames):
    folder, (video_folder, starts), (rows, counted) = tmp_path_factory.mktemp("corpus"), videos, conversation
    write_transcript(folder / "transcripts" / "participant" / f"{name}.csv", rows, WORDS_HEADER)
    expected, begins = [], set()
    for start, end, texts in counted:
        cuts = [start + (end - start) * part // len(texts) for part in range(len(texts) + 1)]
        for text, begin, stop in zip(texts, cuts[:-1], cuts[1:], strict=True):
            begins.add(begin)
            times = [begin + 200 * frame for frame in range(min(max_frames, max(1, (stop - begin) // 200)))]
            expected.append((text, [frame_number_at(starts[name], time) for time in times]))
    if not expected:
        return
    # A transcript that covers less than 1% of its video is refused.
    assume(len(begins) < 2 or max(begins) > starts[name][-1] / 50)
    frames(
        video_folder,
        folder / "transcripts",
        folder / "store",
        profile="babyview",
        max_frames=max_frames,
        num_workers=1,
        min_fraction=0,
    )
    assert stored_frames(PairStore(folder / "store"), rotated=False, offset_up=0) == expected
