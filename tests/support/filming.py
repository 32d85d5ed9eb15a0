"""Write videos in which every frame encodes its number, with transcripts beside them."""

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


def numbered_image(number, width=WIDTH, height=HEIGHT):
    """Return uint8 (height, width, 3) pixels that encode ``number``: 4 x 3 cells, black or white, one per bit."""
    bits = [(number >> bit) & 1 for bit in range(COLUMNS * ROWS)]
    cells = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 255
    return np.repeat(np.repeat(cells, height // ROWS, 0), width // COLUMNS, 1)[..., None].repeat(3, -1)


def read_number(image, rotated=True, offset_up=16):
    """Return the number in a stored 224-pixel frame of a 160 x 120 video, from where each cell is after the crop."""
    gray = np.asarray(image.convert("L"))
    number = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        # 160 x 120 becomes 341 x 256; the crop is x 58..281 and y 0..223 of it (if moved up); then it is rotated.
        x = min(max((column * 40 + 20) * 341 / 160 - 58, 6), 217)
        y = min((row * 40 + 20) * 256 / 120 - (16 - offset_up), 217)
        x, y = (223 - x, 223 - y) if rotated else (x, y)
        number |= int(gray[round(y), round(x)] > 127) << bit
    return number


def read_full_frame_number(jpeg):
    """Return the number in the JPEG of an uncropped 160 x 120 frame."""
    cells = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))[20::40, 20::40]
    return int((cells > 127).ravel() @ 2 ** np.arange(COLUMNS * ROWS))


def write_video(path, count=None, fps=10, first=0, starts_ms=None, rotation=0, size=(WIDTH, HEIGHT), **options):
    """Write an H.264 video whose frames encode their numbers.

    Args:
        path: file to write.
        count: number of frames.
        fps: frames per second.
        first: timestamp of the first frame, in ticks.
        starts_ms: timestamps of all frames in milliseconds, instead of ``count``, ``fps`` and ``first``.
        rotation: degrees by which players must rotate the video counterclockwise; the stored frames lie on their side.
        size: displayed width and height in pixels.
        options: further arguments of ``av.open``.
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
            pixels = np.ascontiguousarray(np.rot90(numbered_image(number, *size), -turns))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = start
            if starts_ms is not None:
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_transcript(path, rows, header=HEADER):
    """Write a CSV with ``header`` and ``rows``; its folder is created."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_corpus(folder, rows, name="S_20140420_1803_01", **video):
    """Write one video and its transcript into ``videos`` and ``transcripts``; rows are (time, speaker, text)."""
    (folder / "videos").mkdir(exist_ok=True, parents=True)
    write_video(folder / "videos" / f"{name}.mp4", **{"count": 400, **video})
    write_transcript(
        folder / "transcripts" / f"{name}.csv", [[time, speaker, name, text] for time, speaker, text in rows]
    )


def run_frames(folder, out="store", **options):
    """Run ``curate frames`` on ``videos`` and ``transcripts`` in a folder and return the store."""
    frames(folder / "videos", folder / "transcripts", folder / out, **{"num_workers": 1, "min_fraction": 0, **options})
    return PairStore(folder / out)
