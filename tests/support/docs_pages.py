"""The code blocks and the commands that stand in README.md, docs/ and the Makefile."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
OURS = ["python", "-m", "babyvlm"]
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "playroom-report"),
]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r"[A-Z]+=\S+$|[A-Z]+=(['\"]).*\1$")
INLINE = re.compile(r"`((?:python -m babyvlm|make) [^`]+)`")


class Block(NamedTuple):
    """What stands between fences."""

    language: str
    title: str
    text: str


def blocks(page):
    """Those of a page, in its order."""
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def shell_lines(text):
    """The commands of a shell block as words: continued lines joined, no comments, the block's variables filled in."""
    lines = text.replace("\\\n", " ").splitlines()
    for line in filter(VARIABLE.match, lines):
        name, value = shlex.split(line)[0].split("=", 1)
        lines = [other.replace(f"${name}", value) for other in lines]
    return [words for line in lines if not VARIABLE.match(line) and (words := shlex.split(line, comments=True))]


def commands(page):
    """All of a page, in its shell blocks or within a line."""
    in_blocks = [block.text for block in blocks(page) if block.language == "sh"]
    in_lines = INLINE.findall(BLOCK.sub("", page.read_text()))
    return [words for text in in_blocks + in_lines for words in shell_lines(text)]


def of_make(target):
    """The commands of ours that `make TARGET` runs on the tiny world, as words."""
    done = subprocess.run(["make", "-n", target, "SIZE=tiny"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [words[3:] for words in shell_lines(done.stdout) if words[1:3] == OURS[1:]]
