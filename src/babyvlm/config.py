"""Parsing of every command line and config: errors of one line, and no import that a config may not ask for."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import docstring_parser
import jsonargparse
import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    _typehints,
)

from babyvlm.allowed import check_config, import_paths, refusal
from babyvlm.errors import UserError
from babyvlm.io.limits import check_yaml_size, load_yaml_file
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Callable

# Arguments that a model takes from its data. The command line links them, so that a config cannot contradict itself.
LINKED = ("vocabulary", "image_size", "max_tokens", "resize")

_allowed_before: set[str] = set()
_load_unbounded = jsonargparse.get_loader("yaml")


def _load_bounded(content: str) -> object:
    """Parse a config, or the value of an option, as jsonargparse does, if it keeps the limits of ``io.limits``."""
    check_yaml_size(content)
    try:
        return _load_unbounded(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from None


jsonargparse.set_loader("yaml", _load_bounded, (yaml.YAMLError,))

_adapt_inheriting: Callable[..., Any] = _typehints.adapt_typehints


def _adapt(value: object, typehint: object, **options: Any) -> Any:  # noqa: ANN401 - passed on
    """Convert a value to its type as jsonargparse does, except that a list inherits nothing from the former list.

    jsonargparse lets each item of a list keep settings of the former list's item at the same place, if both are of one
    length: the second of two callbacks would monitor what another class in its place monitored before. Options that
    continue the last item (``--trainer.callbacks.patience 3``) are no lists here, and items are appended elsewhere.
    """
    if isinstance(value, list) and not options.get("append"):
        options["prev_val"] = None
    return _adapt_inheriting(value, typehint, **options)


_typehints.adapt_typehints = cast("Any", _adapt)  # there is no public switch; pyproject bounds the version


def restrict_imports() -> None:
    """Restrict what jsonargparse imports, instantiates and reads, in this process, to what ``babyvlm.allowed`` lists.

    Every parser of the package calls this; it is repeated because importing Lightning's command line lets configs be
    read from URLs, and because the user may allow a module later.
    """
    paths = import_paths()
    withdrawn = sorted(_allowed_before.difference(paths))
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*", *withdrawn],
        import_path_allowlist=paths,
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
    )
    _allowed_before.update(paths)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML config. If it is invalid, the error names the file, which jsonargparse's does not.

    Returns:
        Its settings; an empty dictionary if the file is missing, which the parser reports.

    Raises:
        UserError: the file is not a YAML mapping; the message names the file and the line.
    """
    if not path.is_file():
        return {}
    try:
        settings = load_yaml_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: contains no settings. Write `key: value` lines, as in configs/")
    return settings


# Lines of jsonargparse's nested messages that hold no cause: the attempts at other members of a union, and headings.
_NOT_A_CAUSE = re.compile(
    r"Expected a path but|Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$"
    r"|Subclass types expect one of|a class path \(str\)|a dict with(out)? "
)
_KEY = re.compile(r"""Parser key ["']([^"']+)["']:\s*""")
_TYPE = re.compile(r"<class '([^']+)'>")
_CHOICES = re.compile(r"Expected a typing\.Literal\[(.*?)\](.*)")
_NO_LIST = re.compile(r"Expected a list\b(?!.*Got value: \[).*")
_CLASS = re.compile(r"Problem with given class_path '([^']+)':")
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")


def one_line(message: str) -> str:
    """Return the innermost cause in jsonargparse's nested message, after the key and the class that it belongs to."""
    if denied := _DENIED.search(message):
        key = _KEY.search(message)
        return refusal(denied[1], key[1] if key else "")
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
                causes.append((indent, text))
    if not causes:
        return " ".join(message.split())
    deepest = max(indent for indent, _ in causes)
    candidates = [_TYPE.sub(r"\1", text) for indent, text in causes if indent == deepest]
    choices = [found for text in candidates if (found := _CHOICES.match(text))]  # of each member of a union
    cause = f"Expected one of {', '.join(one[1] for one in choices)}{choices[0][2]}" if choices else candidates[0]
    return ": ".join([*dict.fromkeys(where), _NO_LIST.sub(r"\g<0>; write it in brackets, '[a,b]' or '[a]'", cause)])


class HelpFormatter(DefaultHelpFormatter):
    """Help that shows every option's default and type below a description with filled paragraphs.

    Indented lines of the description, a list or an example to copy, stay as they are.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = []
        for is_prose, lines in groupby(text.splitlines(), lambda line: bool(line) and not line[0].isspace()):
            block = "\n".join(lines)
            blocks.append(super()._fill_text(block, width, indent) if is_prose else block)
        return "\n".join(blocks)


class OneLineParser(ArgumentParser):
    """A parser whose error is one line on standard error and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's arguments, passed on
        restrict_imports()
        # An abbreviation and a typo look alike: --trainer.max_epoch must not mean something.
        ours: dict[str, Any] = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **ours | kwargs)

    def add_function_arguments(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:  # noqa: ANN401 - passed on
        """Add a command's options; its help shows the complete description in the function's docstring."""
        self.description = docstring_parser.parse(function.__doc__ or "").description
        return super().add_function_arguments(function, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the innermost cause and exit."""
        if not self.exit_on_error:
            super().error(message, ex)
        echo(f"error: {one_line(message)}", file=sys.stderr)
        raise SystemExit(2)


class CheckedParser(OneLineParser):
    """A parser of configs, which somebody else may have written: it instantiates nothing that ``allowed`` refuses."""

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:  # noqa: ANN401 - passed on
        """Instantiate the classes of a parsed config.

        Raises:
            UserError: the config names a class, an argument or a value that is not allowed.
        """
        check_config(namespace)
        instantiated: Namespace = super().instantiate(namespace, *args, **kwargs)
        return instantiated


class CommandParser(OneLineParser):
    """The parser of a command other than Lightning's: its options come from the command line alone.

    There is no ``--config``: some options start programs (``--launcher``) or send data (``--base_url``).
    """

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - argparse's signature
        """Add an option, unless it would read other options from a file."""
        if kwargs.get("action") is ActionConfigFile:
            return None
        return super().add_argument(*args, **kwargs)
