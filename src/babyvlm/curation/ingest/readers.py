"""Read transcripts that programs write: Whisper's JSON, subtitles, CHAT; and speakers in RTTM."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from babyvlm.curation.ingest.turns import SpeakerSegment, Turn, Word, split_by_speaker
from babyvlm.errors import UserError
from babyvlm.io.encodings import read_text, shorten
from babyvlm.io.extras import require_extra
from babyvlm.io.limits import load_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

Notes = tuple[str, ...]
SPEECH = "SPEECH"  # the voice type classifier's class for any voice, which overlaps all others


def read_whisper(path: Path) -> list[Turn]:
    """Read the JSON of Whisper, WhisperX or whisper.cpp. A segment is a turn, divided where its speaker changes.

    Raises:
        UserError: the file is not such a JSON document.
    """
    text, _ = read_text(path)
    try:
        content = load_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    names = ("segments", "transcription")  # the second is whisper.cpp's
    segments = next((content[name] for name in names if name in content), None) if isinstance(content, dict) else None
    if not isinstance(segments, list):
        raise UserError(f"{path}: contains no segments. Is it the JSON output of Whisper, WhisperX or whisper.cpp?")
    turns: list[Turn] = []
    for number, segment in enumerate(segments):
        try:
            turns += split_by_speaker(_whisper_turn(number, segment))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}, segment {number}: not readable as a segment of Whisper ({type(error).__name__}: {error})"
            ) from None
    return turns


def _whisper_turn(number: int, segment: dict[str, Any]) -> Turn:
    offsets = segment.get("offsets")
    if offsets:
        start, end = (int(offsets[name]) for name in ("from", "to"))
    else:
        start, end = (_milliseconds(segment[name]) for name in ("start", "end"))
    words = tuple(
        Word(
            str(word["word"] if "word" in word else word["text"]).strip(),
            _milliseconds(word["start"]) if word.get("start") is not None else None,
            _milliseconds(word["end"]) if word.get("end") is not None else None,
            word.get("speaker") or "",
        )
        for word in segment.get("words") or ()
    )
    speaker = segment.get("speaker") or ""
    return Turn(number, speaker, segment["text"].strip(), f"{start / 1000:g}", start, end, words=words)


def _milliseconds(seconds: float) -> int:
    return round(float(seconds) * 1000)


def read_subtitles(path: Path, caregivers: Collection[str] = (), encoding: str = "") -> tuple[list[Turn], Notes]:
    """Read SubRip (``.srt``) or WebVTT (``.vtt``). A cue is a turn, or several if it has several voices.

    Speakers are ``<v NAME>`` and ``[NAME]:`` at the start of a cue; and ``NAME:``, if a caregiver is written in this
    way anywhere in the file. Where captions roll up, as YouTube's automatic ones do, a line counts when it appears.

    Raises:
        UserError: the file is not in this format, or the extra ``transcripts`` is not installed.
    """
    with require_extra("transcripts", "reading subtitles"):
        import pysubs2
    text, notes = read_text(path, encoding)
    is_rolling = ROLLING.search(text) is not None
    text = WORD_TIME.sub("", text)  # pysubs2 takes two on a line for the times of a cue
    try:
        # Tags are kept, because voices are tags.
        cues = pysubs2.SSAFile.from_string(text, format_=path.suffix[1:].lower(), keep_html_tags=True).events
    except (pysubs2.Pysubs2Error, ValueError) as error:
        raise UserError(f"{path}: not readable as subtitles ({error})") from None
    arrows = [number for number, line in enumerate(text.splitlines(), start=1) if re.search(r"-->|\d\s*->\s*\d", line)]
    if not cues or len(arrows) != len(cues) or any(TIMESTAMP.search(TAG.sub("", cue.text)) for cue in cues):
        raise UserError(
            f"{path}: {len(arrows)} lines with `-->`, but {len(cues)} readable cues. Each cue needs a line such as"
            " 00:00:01.000 --> 00:00:02.500, and a blank line before it"
        )
    contents = [(cue, list(_voices(said))) for cue, said in zip(cues, _new_lines(cues, is_rolling), strict=True)]
    labeled = any(
        (found := LABEL.match(said)) and found[1] in caregivers for _, voices in contents for _, said in voices
    )
    turns = []
    for number, (cue, voices) in enumerate(contents, start=1):
        for speaker, said in voices:
            found = BRACKETED_LABEL.match(said) or (LABEL.match(said) if labeled else None)
            name, said = (found[1], said[found.end() :]) if found and not speaker else (speaker, said)  # noqa: PLW2901
            turns.append(Turn(number, name, said, f"{cue.start / 1000:g}", cue.start, cue.end))
    return turns, notes


TIMESTAMP = re.compile(r"-->|\d\d:\d\d[.,]\d{3}")  # within the text of a cue: the line of the next one is damaged
VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
WORD_TIME = re.compile(r"<\d[\d:.]*>")
ROLLING = re.compile(rf"{WORD_TIME.pattern}<c>")
TAG = re.compile(rf"</?[a-z][^<>\n]*>|{WORD_TIME.pattern}|\{{\\[^{{}}]*\}}", re.IGNORECASE)
BRACKETED_LABEL = re.compile(r"\s*[\[(]([^\])\n]{1,40})[\])]:\s*")
LABEL = re.compile(r"\s*([^\W\d_][\w .'-]{0,39}):\s+")


def _new_lines(cues: Iterable[Any], is_rolling: bool) -> Iterator[str]:
    """Yield the text of each cue; where captions roll up, without the lines that the cue before it ends with."""
    shown: list[str] = []
    for cue in cues:
        text = cue.text.replace(r"\N", "\n")
        lines = [line for line in text.splitlines() if line.strip()]
        plain = [TAG.sub("", line).strip() for line in lines]
        num_old = max(n for n in range(len(lines) + 1) if plain[:n] == shown[len(shown) - n :]) if is_rolling else 0
        shown = plain
        yield "\n".join(lines[num_old:]) if num_old else text


def _voices(text: str) -> Iterator[tuple[str, str]]:
    """Yield speaker and text of each voice in a cue."""
    parts = VOICE.split(text)
    spoken = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    for speaker, said in spoken:
        lines = html.unescape(TAG.sub("", said)).replace("\u266a", " ").splitlines()
        plain = " ".join(re.sub(r"^\s*[-\u2013]\s+", "", line) for line in lines)
        if plain.strip() or len(spoken) == 1:
            yield speaker.strip(), " ".join(plain.split())


def read_chat(path: Path) -> list[Turn]:
    """Read a CHAT transcript (``.cha``) of TalkBank. A main line is a turn, with the times of its bullet.

    Words are those of pylangacq: what the speaker retraced, fillers and events are left out, ``(be)cause`` is
    ``because``, ``doggie@f`` is ``doggie``. Unintelligible speech (``xxx``, ``yyy``) becomes ``inaudible``.

    Raises:
        UserError: the file is not CHAT, or the extra ``transcripts`` is not installed.
    """
    text, _ = read_text(path)
    text = re.sub("\u2022(\\d+_\\d+)\u2022", "\x15\\1\x15", text)  # as editors show the bullets
    media = re.search(r"^@Media:\s*([^,\n]+)", text, re.MULTILINE)
    # Dependent tiers (%mor) are not needed, and their mistakes would cost the utterance.
    lines = re.sub(r"\n\t", " ", re.sub(r"\n%[^\n]*(?:\n\t[^\n]*)*", "", text.replace("\r\n", "\n"))).splitlines()
    spoken: list[tuple[int, str, str]] = []
    for line in lines:
        if not line.startswith("*"):
            continue
        found = re.fullmatch(r"\*([^\s:]+):\s(.*)", line)
        if not found or re.search(r"\x15(?!\d+_\d+\x15)", re.sub(r"\x15\d+_\d+\x15", "", line)):
            raise UserError(f"{path}: not readable as CHAT: {shorten(line)!r}. A line is *CODE:, a tab, text and times")
        spoken.append((len(spoken) + 1, found[1], found[2]))
    if not spoken or "@Begin" not in lines:
        raise UserError(f"{path}: is not a CHAT transcript. It needs the line @Begin and lines such as *MOT:")
    turns = []
    words = chat_texts([content for _, _, content in spoken])
    for (number, speaker, content), said in zip(spoken, words, strict=True):
        times = re.findall(r"\x15(\d+)_(\d+)\x15", content)
        start, end = (int(times[0][0]), int(times[-1][1])) if times else (None, None)
        start_text = "" if start is None else f"{start / 1000:g}"
        turns.append(Turn(number, speaker, said, start_text, start, end, media[1].strip() if media else ""))
    return turns


def chat_texts(texts: Sequence[str]) -> list[str]:
    """Return texts in CHAT's conventions as plain text, by pylangacq.

    Raises:
        UserError: the extra ``transcripts`` is not installed.
    """
    with require_extra("transcripts", "reading CHAT"):
        import pylangacq
    return [_plain(pylangacq, text) for text in texts]


def _plain(pylangacq: Any, text: str) -> str:  # noqa: ANN401 - an optional module
    content = CHAT_UNINTELLIGIBLE.sub("inaudible", " ".join(text.split()))
    if not content:
        return ""
    found = pylangacq.CHAT.from_strs([f"@UTF8\n@Begin\n*SPK:\t{content}\n@End\n"], strict=False).utterances()
    words = [token.word for utterance in found for token in utterance.tokens or ()]
    said = ""
    for word in words:
        if word in CHAT_MARKERS:
            continue
        if word[0] == "+":  # a terminator such as +... or +/?
            word = "?" if "?" in word else "!" if "!" in word else "..." if "..." in word else "."  # noqa: PLW2901
        word = re.sub(r"(?<=\w)[:^]+|^\^|[\u2191\u2193]", "", word.replace("_", " "))  # noqa: PLW2901
        said += word if re.fullmatch(r"[.,?!]+", word) else f" {word}"
    return said.strip() if any(map(str.isalnum, said)) else ""


CHAT_UNINTELLIGIBLE = re.compile(r"(?<![\w<])<unk>|(?<![^\s<])(?:xxx|yyy)(?![^\s>.,?!])")
CHAT_MARKERS = ("\u2021", "\u201e", "www")  # before a vocative, before a tag, untranscribed speech
# Codes that no plain text contains, for text that is not declared to be CHAT.
CHAT_CODE = re.compile(
    r"\x15|\u2022\d+_\d+\u2022|(?<!\S)&[-+~=]\w|\[/{1,3}\]|\[(?:=!|=|:|\*|%|\+) "
    r"|\[(?:[<>!]\d?|x \d+)\]|(?<!\S)\+(?:\.\.\.|[/\"<^,+]+\.*[?!]?)"
    r"|\w@(?:fp|fs|nv|sas|si|sl|wp|[abcdfgiklnopqstuxz])(?![\w.@])"
)


def read_rttm(path: Path) -> list[SpeakerSegment]:
    """Read the speakers of a recording from RTTM (NIST Rich Transcription 2009, appendix A).

    A line has ten fields separated by blanks, too few rules for a library: ``SPEAKER FILE CHANNEL ONSET DURATION <NA>
    <NA> NAME <NA> <NA>``. Lines of other types are skipped. The class SPEECH of the voice type classifier is left out
    if others are present.

    Raises:
        UserError: a line is malformed, or no line names a speaker.
    """
    text, _ = read_text(path)
    segments = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";;") or fields[0] != "SPEAKER":
            continue
        try:
            start, duration, name = _milliseconds(float(fields[3])), _milliseconds(float(fields[4])), fields[7]
            if start < 0 or duration < 0:
                raise ValueError
        except (IndexError, ValueError, OverflowError):
            raise UserError(
                f"{path}, line {number}: {shorten(line)!r} is not SPEAKER FILE CHANNEL ONSET DURATION <NA> <NA> NAME"
            ) from None
        segments.append(SpeakerSegment(start, start + duration, name))
    if not segments:
        raise UserError(f"{path}: contains no line of type SPEAKER")
    named = [segment for segment in segments if segment.speaker != SPEECH]
    return sorted(named or segments)
