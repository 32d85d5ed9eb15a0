"""Text of any length takes a time that grows in proportion: no regular expression visits it once per character."""

import time

import pytest

from babyvlm.curation.ingest import readers
from babyvlm.curation.rewrite.rules.rewriter import MAX_CAPTION, rewrite_caption, strip_noise
from babyvlm.text import RuleSplitter, normalize, remove_remarks, sentences

LENGTH = 20_000  # at which each of these took 6 to 100 s
MAX_SECONDS = 5  # of CPU time; each takes less than 1
REPEATED = [
    "a",
    "a.",
    "<",
    "<v ",
    "<v.",
    "(",
    "[",
    "[)",
    "*",
    "'",
    "\" '",
    ".",
    "n't",
    "&",
    "stock ",
    "isolated ",
    "{\\",
]


def every_word(text):
    return list(sentences([remove_remarks(text)], RuleSplitter()))


READERS = {
    "rewrite": rewrite_caption,
    "normalize": normalize,
    "sentences": every_word,
    "voices": readers.VOICE.split,
    "tags": lambda text: readers.TAG.sub("", text),
}


@pytest.mark.parametrize("name", READERS)
def test_repeated_characters_take_linear_time(name):
    start = time.process_time()
    for part in REPEATED:
        READERS[name](part * (LENGTH // len(part)))
    assert time.process_time() - start < MAX_SECONDS


def test_only_the_beginning_of_a_long_caption_is_read():
    assert strip_noise("x " * MAX_CAPTION) == "x " * (MAX_CAPTION // 2)
    assert rewrite_caption("a red ball " + "and so on " * 1000).utterance == "wow a red ball !"


def test_long_word_is_not_split():
    assert normalize("." * 1001) == "." * 1001
    assert normalize("go " + "A" * 2000 + " now.") == "go " + "a" * 2000 + " now ."


def test_remarks_are_removed_as_by_the_authors():
    """They substitute ``\\*[^)]*\\*``, ``\\[[^)]*\\]`` and ``\\([^)]*\\)``."""
    assert remove_remarks("*a* go *b*") == ""
    assert remove_remarks("[a] go ) [b]") == " go ) "
    assert remove_remarks("(a (b) go)") == " go)"
    assert remove_remarks("go (a [b) c] d)") == "go  c] d)"
    assert remove_remarks("look (inaudible) at * it") == "look INAUDIBLE at  it"
