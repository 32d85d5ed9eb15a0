"""Read the code blocks and the commands in README.md, docs/, the tutorials, and the Makefile."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BABYVLM = ["python", "-m", "babyvlm"]
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "playroom-report"),
]
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r"[A-Z]+=\S+$|[A-Z]+=(['\"]).*\1$")
INLINE = re.compile(r"`((?:python -m babyvlm|make) [^`]+)`")
SHORT = re.compile(r"`((?:curate|store|benchmark build|ablations) [^`]+)`")  # without `python -m babyvlm`
# `python -m babyvlm store`: `info`, `check` names the commands `store info` and `store check`.
GROUP = re.compile(r"`(python -m babyvlm [\w -]+)`: (`[\w-]+`(?:, `[\w-]+`)*)")
# `python -m babyvlm fit`, `test` names the commands `fit` and `test`.
SIBLINGS = re.compile(r"`python -m babyvlm ((?:\w+ )*)[\w-]+`((?:, `[\w-]+`)+)")


class Block(NamedTuple):
    """The content of a fenced code block."""

    language: str
    title: str
    text: str


def blocks(page):
    """Return the code blocks of a page in order."""
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def shell_lines(text):
    """Return the commands of a shell block as lists of words: continuation lines joined, variables filled in."""
    lines = text.replace("\\\n", " ").splitlines()
    for line in filter(VARIABLE.match, lines):
        name, value = shlex.split(line)[0].split("=", 1)
        lines = [other.replace(f"${name}", value) for other in lines]
    return [words for line in lines if not VARIABLE.match(line) and (words := shlex.split(line, comments=True))]


def commands(page):
    """Return all commands of a page or a notebook, from its shell blocks and its text."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        lines = re.findall(r"^%run (-m babyvlm(?:.*\\\n)*.*)$", code, re.MULTILINE)
        return [words for line in lines for words in shell_lines(f"python {line}")]
    text = BLOCK.sub("", page.read_text())
    found = [block.text for block in blocks(page) if block.language == "sh"] + INLINE.findall(text)
    for group, names in GROUP.findall(text):
        found += [f"{group} {name}" for name in re.findall(r"`([\w-]+)`", names)]
    for group, names in SIBLINGS.findall(text):
        found += [f"python -m babyvlm {group}{name}" for name in re.findall(r"`([\w-]+)`", names)]
    return [words for text in found for words in shell_lines(text)]


def short_commands(page):
    """Return the commands that a page abbreviates, such as `curate embed --clip NAME`, as lists of words."""
    return [words for text in SHORT.findall(BLOCK.sub("", page.read_text())) for words in shell_lines(text)]


def of_make(target):
    """Return the babyvlm commands that `make TARGET` runs on the tiny world, as lists of words."""
    done = subprocess.run(["make", "-n", target, "SIZE=tiny"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [words[3:] for words in shell_lines(done.stdout) if words[1:3] == BABYVLM[1:]]
