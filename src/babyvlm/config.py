"""How every command line is parsed: one line for a mistake, and no import that a config may not ask for."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse
import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

# What a config may instantiate. Anything else is refused before its module is imported.
ALLOWED_PACKAGES = ["babyvlm", "lightning", "torch", "torchmetrics"]

# What a model takes from its data: the command line links them, so that no config can say two things.
LINKED = ("vocabulary", "image_size", "max_tokens")


def restrict_imports() -> None:
    """Hold imports by config to ``ALLOWED_PACKAGES``."""
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=ALLOWED_PACKAGES)


def check_yaml(path: Path) -> dict[str, Any]:
    """Make sure that a config can be parsed: jsonargparse does not say which one could not.

    Returns:
        What it says; nothing if it is missing, which is told well enough.

    Raises:
        UserError: it is no YAML of settings; names the file, and the line.
    """
    if not path.is_file():
        return {}
    try:
        said = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict):
        raise UserError(f"{path}: holds no settings; write `key: value` lines, as in configs/")
    return said


# Lines of jsonargparse's nested messages that hold no cause: the attempts at other members of a union, and headings.
_NOT_A_CAUSE = re.compile(
    r"Expected a path but|Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$"
)
_KEY = re.compile(r"""Parser key ["']([^"']+)["']:\s*""")
_TYPE = re.compile(r"<class '([^']+)'>")
_NO_LIST = re.compile(r"Expected a list\b(?!.*Got value: \[).*")
_CLASS = re.compile(r"Problem with given class_path '([^']+)':")


def one_line(message: str) -> str:
    """The deepest cause in a parser's nested complaint, behind the key and the class that it belongs to."""
    where: list[str] = []
    causes: list[tuple[int, str]] = []
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip(" -"))
        text = line.strip(" -")
        if found := _CLASS.match(text):
            where.append(found[1])
        else:
            where += _KEY.findall(text)
            text = _KEY.sub("", text)
            if not _NOT_A_CAUSE.match(text):
                causes.append((indent, text.split(" Add the import path")[0]))
    if not causes:
        return " ".join(message.split())
    deepest = max(indent for indent, _ in causes)
    cause = _TYPE.sub(r"\1", next(text for indent, text in causes if indent == deepest))
    return ": ".join([*dict.fromkeys(where), _NO_LIST.sub(r"\g<0>; write it in brackets, '[a,b]' or '[a]'", cause)])


class HelpFormatter(DefaultHelpFormatter):
    """Help that says an option's default and type, under a description whose paragraphs are filled.

    Its indented lines, a list or an example to copy, stay as they are.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = []
        for is_prose, lines in groupby(text.splitlines(), lambda line: bool(line) and not line[0].isspace()):
            block = "\n".join(lines)
            blocks.append(super()._fill_text(block, width, indent) if is_prose else block)
        return "\n".join(blocks)


class OneLineParser(ArgumentParser):
    """A parser whose complaint is one line on standard error and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's arguments, passed on
        # An abbreviation and a typo look alike: --trainer.max_epoch must not mean something.
        ours: dict[str, Any] = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **ours | kwargs)

    def add_function_arguments(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:  # noqa: ANN401 - passed on
        """Add a command's options; its help shows all that the function's docstring says before them, not one line."""
        self.description = docstring_parser.parse(function.__doc__ or "").description
        return super().add_function_arguments(function, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the innermost cause and exit."""
        sys.stderr.write(f"error: {one_line(message)}\n")
        raise SystemExit(2)
