"""Time to make DINO's views of a frame: by torchvision on Pillow images, by OpenCV, and by PyTorch in batches.

    python perf/multi_crop.py

From JPEG bytes to uint8 views, two of 224 and eight of 96 pixels. "device" decodes only; its views are made on the
device of the model, which is timed here on the CPU. Medians are of CPU time on one thread, in turn on the same frames.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from common import FRAME_SIZE, describe_machine, make_parser, simulated_frames

from babyvlm.data.frame_mix import Crops, DrawnCrops, MultiCrop, collate, finished
from babyvlm.data.transforms import seeded
from babyvlm.io.images import open_rgb, rgb_pixels

BATCH_SIZE = 16


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--num_images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    frames, crops = list(simulated_frames(args.num_images)), Crops()
    pillow = MultiCrop(FRAME_SIZE, crops)
    opencv, device = (DrawnCrops(FRAME_SIZE, crops, on_device=on_device) for on_device in (False, True))

    def drawn(how: DrawnCrops) -> list[object]:
        return [how("", rgb_pixels(frame), np.random.default_rng(number)) for number, frame in enumerate(frames)]

    items = drawn(device)
    batches = [collate(items[start : start + BATCH_SIZE]) for start in range(0, len(items), BATCH_SIZE)]
    passes = {
        "pillow": lambda: [seeded(pillow, open_rgb(frame), number) for number, frame in enumerate(frames)],
        "opencv": lambda: drawn(opencv),
        "device, in the workers": lambda: drawn(device),
        "device, on the device (here the CPU)": lambda: [finished(batch) for batch in batches],
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(args.repeats):
        for name, run in passes.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    print(f"{args.num_images} frames, medians of {args.repeats}; {describe_machine(args.num_threads)}")
    slowest = statistics.median(seconds["pillow"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"  {name:<38} {args.num_images / median:8.0f} frames/s  {slowest / median:6.1f}x")


if __name__ == "__main__":
    main()
