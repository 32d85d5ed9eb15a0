"""Check every command in README.md, docs/, the tutorials, and the Makefile against the real parsers."""

import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import takewhile

import pytest
from jsonargparse import capture_parser

from babyvlm.cli import demo, lightning
from babyvlm.cli import main as command_line
from support.docs_pages import BABYVLM, NOTEBOOKS, PAGES, ROOT, blocks, commands, shell_lines, short_commands

PLACEHOLDERS = {"...": "placeholder", "[...]": "[one,other]"}
PROBLEMS = {}  # of all commands so far: many are on several pages
MISSING = ("required", "was not provided")  # messages about missing arguments and subcommands


class Checker:
    """Parse commands with the parsers of ``python -m babyvlm`` without running them."""

    def __init__(self, capsys):
        self._capsys = capsys

    def problem(self, words):
        """Return the parser's message about ``python -m babyvlm WORDS``, or nothing if the command is valid."""
        if tuple(words) not in PROBLEMS:
            PROBLEMS[tuple(words)] = self._parse(words)
        return PROBLEMS[tuple(words)]

    def _parse(self, words):
        if not words or words == ["--version"]:
            return ""
        own = words[0] == "--allow"  # the model is one that the reader makes
        while words[0] == "--allow":
            words = words[2:]
        name, rest = command_line.find_command(words)
        parser = parser_of(words[0] if words[0] in command_line.LIGHTNING else name)
        if parser is None:
            return f"{' '.join(words)}: no such command" if rest else ""
        rest = words if words[0] in command_line.LIGHTNING else rest
        rest = [PLACEHOLDERS.get(word, word) for word in rest]
        words = _without_own_configs(rest)
        own = own or words != rest  # the model may be in a config that the reader has
        try:
            parser.parse_args(words)
        except SystemExit as end:
            message = self._capsys.readouterr().err.strip()
            named_only = (own or not any(word.startswith("-") for word in words)) and any(
                part in message for part in MISSING
            )
            return "" if not end.code or named_only else message or "an error"
        return ""


@cache
def parser_of(command):
    """The parser of a command; none of a group of commands."""
    if command in command_line.LIGHTNING:
        return capture_parser(lightning.BabyVLMCLI, ())
    return capture_parser(command_line.run, command.split()) if command in command_line.COMMANDS else None


def _without_own_configs(words):
    """Drop overlays that a reader writes. Overlays of the project must exist."""
    kept = []
    for word in words:
        if kept and kept[-1] == "--config" and not word.startswith("configs/"):
            kept.pop()
        else:
            kept.append(word)
    return kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the project's configs and those that pages add to them."""
    folder = tmp_path_factory.mktemp("commands")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for page in PAGES:
        for block in blocks(page):
            if block.title.startswith("configs/"):
                (folder / block.title).write_text(block.text)
    return folder


@pytest.fixture
def checker(capsys, monkeypatch, folder):
    """Return a checker in the folder with configs."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["babyvlm"])  # Lightning warns about the arguments of pytest
    return Checker(capsys)


def make(*words):
    return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=lambda page: page.name)
def test_page_has_only_valid_commands(page, checker):
    problems = {}
    for words in commands(page):
        if words[:3] == BABYVLM:
            problems[" ".join(words)] = checker.problem(words[3:])
        elif words[0] == "make":
            problems[" ".join(words)] = make(*words[1:]).stderr
    assert not {command: problem for command, problem in problems.items() if problem}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_abbreviates_only_valid_commands(page):
    for words in short_commands(page):
        name = " ".join(takewhile(lambda word: not word.startswith("-"), words))
        assert name in command_line.COMMANDS, f"{page.name}: {name}"
        options = {option for action in parser_of(name)._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("--")} <= options, f"{page.name}: {words}"


def test_makefile_has_only_valid_commands(checker):
    listed = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "data", "docs", "ablations"} <= {*listed}
    done = make(*(target for target in listed if target != "setup"))
    assert not done.stderr
    found = [words[3:] for words in shell_lines(done.stdout) if words[1:3] == BABYVLM[1:]]
    assert len(found) > 20
    found += [list(job.command) for job in demo.jobs()]  # which `make demo` and `make data` run
    problems = {" ".join(words): checker.problem(words) for words in found}
    assert not {command: problem for command, problem in problems.items() if problem}


def test_help_of_each_command_shows_an_example_that_can_be_typed(checker):
    wrong = {}
    for name in command_line.COMMANDS:
        if command_line.COMMANDS[name].positional:
            continue
        example = re.search(r"^For example:\n((?: +.*\n)+)\n", parser_of(name).format_help(), re.MULTILINE)
        found = shell_lines(example[1]) if example else []
        typed = [command_line.find_command(one[3:])[0] for one in found]
        wrong[name] = [checker.problem(one[3:]) for one in found] if typed == [name] else ["no example of it"]
    assert len(wrong) > 25
    assert not {name: problems for name, problems in wrong.items() if any(problems)}


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
def test_checker_rejects_misspelled_command(checker, command):
    assert checker.problem(command.split())


def test_make_rejects_unknown_target():
    assert make("demonstration").returncode
