"""Videos whose every frame says its number, and transcripts beside them."""

import csv
import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.store.pair_store import PairStore

HEADER = ["Time", "Speaker", "Video Name", "Utterance"]
WORDS_HEADER = [
    "token_id",
    "utterance_id",
    "utterance",
    "token_num",
    "token",
    "token_start_time",
    "token_end_time",
    "speaker",
]
COLUMNS, ROWS = 4, 3
WIDTH, HEIGHT = 160, 120


def numbered(number, width=WIDTH, height=HEIGHT):
    """A picture that says its number: 4 x 3 cells, black or white, one a bit."""
    bits = [(number >> bit) & 1 for bit in range(COLUMNS * ROWS)]
    cells = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 255
    return np.repeat(np.repeat(cells, height // ROWS, 0), width // COLUMNS, 1)[..., None].repeat(3, -1)


def read_number(picture, turned=True, up=16):
    """The number of a 224-pixel frame cut from a 160 x 120 picture: by where each output pixel was in the input."""
    grey = np.asarray(picture.convert("L"))
    number = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        # 160 x 120 becomes 341 x 256; the crop takes x 58..281 and y 0..223 of it (if moved up); then it is turned.
        x = min(max((column * 40 + 20) * 341 / 160 - 58, 6), 217)
        y = min((row * 40 + 20) * 256 / 120 - (16 - up), 217)
        x, y = (223 - x, 223 - y) if turned else (x, y)
        number |= int(grey[round(y), round(x)] > 127) << bit
    return number


def number_in(jpeg):
    """The number of a whole 160 x 120 picture, as JPEG."""
    cells = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))[20::40, 20::40]
    return int((cells > 127).ravel() @ 2 ** np.arange(COLUMNS * ROWS))


def write_video(path, count=None, fps=10, first=0, starts_ms=None, rotation=0, size=(WIDTH, HEIGHT), **options):
    """H.264, ``count`` frames at ``fps`` from tick ``first``; or a frame at each of ``starts_ms``.

    With ``rotation`` the pictures lie on their side, and the file asks players to turn them counter-clockwise.
    """
    turns = rotation // 90
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "25", "threads": "1", "preset": "veryfast"})
        stream.width, stream.height = size if turns % 2 == 0 else size[::-1]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if starts_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, start in enumerate(starts_ms if starts_ms is not None else range(first, first + count)):
            picture = np.ascontiguousarray(np.rot90(numbered(number, *size), -turns))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = start
            if starts_ms is not None:
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_transcript(path, rows, header=HEADER):
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def corpus(folder, rows, name="S_20140420_1803_01", **video):
    """One video and its transcript, in ``videos`` and ``transcripts``; rows are (time, speaker, said)."""
    (folder / "videos").mkdir(exist_ok=True, parents=True)
    write_video(folder / "videos" / f"{name}.mp4", **{"count": 400, **video})
    filled = [[time, speaker, name, said] for time, speaker, said in rows]
    write_transcript(folder / "transcripts" / f"{name}.csv", filled)


def run(folder, out="store", **options):
    frames(folder / "videos", folder / "transcripts", folder / out, **{"num_workers": 1, **options})
    return PairStore(folder / out)
