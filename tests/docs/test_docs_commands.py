"""Every command that README.md and docs/ tell a reader to type is one that the project has."""

import re
import shutil
import subprocess
import sys
from functools import cache

import pytest
from jsonargparse import capture_parser

from babyvlm import __main__ as command_line
from babyvlm.cli import lightning
from babyvlm.config import restrict_imports
from support.docs_pages import PAGES, ROOT, blocks, commands, shell_lines

BABYVLM = ["-m", "babyvlm"]
LEFT_OPEN = {"...": "placeholder", "[...]": "[one,other]"}
NOT_SAID = ("required", "was not provided")  # of arguments and of a subcommand


class Checker:
    """Parses commands by the parsers of ``python -m babyvlm`` and runs none of them."""

    def __init__(self, capsys):
        self._capsys = capsys

    def problem(self, words):
        """What the parser says of ``python -m babyvlm WORDS``; nothing if it takes them."""
        parser, words = parser_of(words[0]), [LEFT_OPEN.get(word, word) for word in words]
        words = words[1:] if words[0] in command_line.RUN_COMMANDS else _without_own_configs(words)
        try:
            parser.parse_args(words)
        except SystemExit as end:
            said = self._capsys.readouterr().err.strip()
            only_named = not any(word.startswith("-") for word in words) and any(part in said for part in NOT_SAID)
            return "" if not end.code or only_named else said or "an error"
        return ""


def parser_of(command):
    """What parses a command: one of its own, Lightning's or that of the stages."""
    if command in command_line.RUN_COMMANDS:
        return captured(command_line._run_on_runs, command)
    return captured(lightning.BabyVLMCLI if command in command_line.LIGHTNING_COMMANDS else command_line._run_stage, ())


@cache
def captured(function, arguments):
    restrict_imports()
    return capture_parser(function, arguments)


def _without_own_configs(words):
    """Overlays of the project must be there; those that a reader makes are not."""
    kept = []
    for word in words:
        if kept and kept[-1] == "--config" and not word.startswith("configs/"):
            kept.pop()
        else:
            kept.append(word)
    return kept


@pytest.fixture
def checker(capsys, monkeypatch, tmp_path):
    """A checker in a folder with the project's configs and those that pages add to them."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for page in PAGES:
        for block in blocks(page):
            if block.title.startswith("configs/"):
                (tmp_path / block.title).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["babyvlm"])  # Lightning warns of pytest's
    return Checker(capsys)


def leaves(parser, words=()):
    """Every command below a parser that has none below itself: its words and its own parser."""
    below = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        yield words, parser
    for action in below:
        for name, inner in action.choices.items():
            yield from leaves(inner, (*words, name))


def make(*words):
    return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_parsed(page, checker):
    wrong = {}
    for words in commands(page):
        if words[1:3] == BABYVLM:
            wrong[" ".join(words)] = checker.problem(words[3:])
        elif words[0] == "make":
            wrong[" ".join(words)] = make(*words[1:]).stderr
    assert not {command: problem for command, problem in wrong.items() if problem}


def test_every_command_of_the_makefile_can_be_parsed(checker):
    listed = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "data", "docs", "ablations"} <= {*listed}
    done = make(*(target for target in listed if target != "setup"))
    assert not done.stderr
    found = [words for words in shell_lines(done.stdout) if words[1:3] == BABYVLM]
    assert len(found) > 30
    wrong = {" ".join(words): checker.problem(words[3:]) for words in found}
    assert not {command: problem for command, problem in wrong.items() if problem}


def test_help_tells_each_command_whole_and_shows_one_that_can_be_typed(checker):
    wrong = {}
    for words, parser in leaves(parser_of("curate")):
        example = re.search(r"^For example:\n((?: +.*\n)+)\n", parser.format_help(), re.MULTILINE)
        found = shell_lines(example[1]) if example else []
        typed = [one[3 : 3 + len(words)] for one in found]
        wrong[words] = [checker.problem(one[3:]) for one in found] if typed == [[*words]] else ["no example of it"]
    assert len(wrong) > 25
    assert not {words: problems for words, problems in wrong.items() if any(problems)}


@pytest.mark.parametrize(
    "command",
    [
        "curate frames --video V --transcripts T --out O",
        "curate nothing",
        "curate web --sources",
        "report lightning_logs --outt report",
        "fit --config configs/playroom/base.yaml --config configs/playroom/cvc.yaml",
        "fit --config configs/playroom/base.yaml --config configs/playroom/cvcl.yaml --model.temprature 0.1",
        "fit --config configs/playroom/base.yaml --config configs/playroom/cvcl.yaml --trainer.max_steps many",
    ],
)
def test_a_misspelt_command_is_noticed(checker, command):
    assert checker.problem(command.split())


def test_a_target_that_is_none_is_noticed():
    assert make("demonstration").returncode
