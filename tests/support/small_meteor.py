"""METEOR's program without its paraphrases, whose table of 60 MB takes twelve seconds to read."""

import gzip
import shutil
from contextlib import contextmanager
from functools import cache

import pytest

from babyvlm.benchmarks import meteor_jar


@contextmanager
def small_meteor(folder):
    """Let this process, and those that it forks, start the program with an empty table."""
    java, jar = meteor_jar.find_program()
    shutil.copy(jar, folder)
    (folder / "data").mkdir()
    gzip.open(folder / "data" / "paraphrase-en.gz", "w").close()
    started = []

    @cache
    def start(pid):
        started.append(meteor_jar.MeteorJar())
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor_jar, "find_program", lambda: (java, folder / jar.name))
        patch.setattr(meteor_jar, "start_jar", start)
        yield
    for program in started:
        program.close()
