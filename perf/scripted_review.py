"""Scripted reviewers for `make benchmark-demo`.

They replace human reviewers, and every file they write identifies them as scripted.

Each opens the URL printed by `benchmark build review` and answers through the page's HTTP API, item by item, with
Playroom's CLIP: yes if the first phrase is more similar to the image than the second by a margin. The two reviewers use
different margins, so that their agreement can be computed.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import io
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import HTTPCookieProcessor, Request, build_opener

import torch
from PIL import Image

from babyvlm.curation.clip import Clip, load_clip

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

MARGINS = {"scripted-clip": 0.0, "scripted-clip-strict": 0.05}  # cosine similarity; our choice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", help="folder of phrase pairs or negative images")
    items = parser.parse_args().items
    clip = load_clip("playroom")
    command = [sys.executable, "-m", "babyvlm", "benchmark", "build", "review", "--items", items, "--port", "0"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        address = next((line.split()[-1] for line in page.stdout if "token=" in line), None)
        if address is None:
            sys.exit(page.wait() or 1)
        try:
            for reviewer, margin in MARGINS.items():
                review(address, reviewer, margin, clip)
        finally:
            page.send_signal(signal.SIGINT)
        print(page.stdout.read().strip())


def review(address: str, reviewer: str, margin: float, clip: Clip) -> None:
    """Answer every item without an answer of this reviewer."""
    opener = build_opener(HTTPCookieProcessor(http.cookiejar.CookieJar()))
    opener.open(address).close()  # stores the token in a cookie
    url = urlsplit(address)
    page = f"{url.scheme}://{url.netloc}"
    item = ask(opener, f"{page}/api/next", reviewer=reviewer)
    while item["item"] is not None:
        with opener.open(f"{page}/image/{quote(item['item'])}") as reply:
            image = Image.open(io.BytesIO(reply.read())).convert("RGB")
        with torch.inference_mode():
            phrases = [item["positive"], item["negative"]]
            first, second = clip.score(clip.preprocess(image)[None], phrases)[0].tolist()
        verdict = "yes" if first > second + margin else "no"
        item = ask(opener, f"{page}/api/verdict", reviewer=reviewer, item=item["item"], verdict=verdict)


def ask(opener: OpenerDirector, url: str, **body: str) -> dict[str, Any]:
    """Send a POST request with JSON and return the JSON reply."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with opener.open(request) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


if __name__ == "__main__":
    main()
