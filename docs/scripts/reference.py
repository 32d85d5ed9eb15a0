"""Generate the CLI reference, the configuration reference, and the pages of the tutorials.

mkdocs calls this module when it builds the site (``hooks`` in ``mkdocs.yml``). The CLI reference comes from the
parsers of ``python -m babyvlm``, the configuration reference from the shipped configs and the signatures and docstrings
of the classes that they name, and the tutorials from their notebooks.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import textwrap
from argparse import SUPPRESS
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, capture_parser
from mkdocs.structure.files import File, Files

from babyvlm.cli import main as command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[2]
EXAMPLE = "For example:"
CLI_INTRODUCTION = """# CLI reference

This page is generated from the parsers of `python -m babyvlm`. `python -m babyvlm COMMAND --help` prints the same text.

Boolean options take `true` or `false`, and lists are written as `'[a,b]'`. A user error ends with a one-line message on
standard error and exit status 2.
"""
LIGHTNING = """## fit, validate, test, predict

These commands configure a trainer, a model, and data from YAML files, by
[LightningCLI](https://lightning.ai/docs/pytorch/stable/cli/lightning_cli.html).

```sh
python -m babyvlm fit --config FILE.yaml --config FILE.yaml \\
    --model.NAME VALUE --data.NAME VALUE --trainer.NAME VALUE
```

`--config` can be repeated; later files override earlier ones. `--print_config` prints the resulting configuration
without running it. The [configuration reference](configuration.md) lists the settings. The options in the table are
specific to babyvlm.
"""
CONFIGURATION_INTRODUCTION = """# Configuration reference

This page is generated from the shipped configs and from the classes they name. Settings of the trainer are described in
[Lightning's documentation](https://lightning.ai/docs/pytorch/stable/common/trainer.html).

A setting that is listed under *Data* as `batch_size`, for example, is `data.init_args.batch_size` in a YAML file and
`--data.batch_size` on the command line.
"""
LIGHTNING_GROUPS = ("trainer", "model", "data", "optimizer")
SECTIONS = {
    "Data": "babyvlm.data",
    "Models": "babyvlm.models",
    "Benchmarks and callbacks": "babyvlm.benchmarks",
}


def type_name(annotation: Any) -> str:  # noqa: ANN401 - whatever a signature has
    """Return an annotation without module names, such as ``list[Path] | None``."""
    if annotation in (None, inspect.Parameter.empty):
        return ""
    name = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    name = re.sub(r"(?:\w+\.)+(\w+)", r"\1", name).replace("NoneType", "None")
    return re.sub(r"Optional\[(.+)\]$", r"\1 | None", name)


def cell(text: str) -> str:
    """Return text for a table cell: one line, no column separators."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def code(text: str) -> str:
    """Return inline code for a table cell, or nothing."""
    return f"`{text}`" if text else ""


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table, or nothing if there are no rows."""
    if not rows:
        return ""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def leaves(parser: ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ArgumentParser]]:
    """Yield every command below a parser: its words and its own parser."""
    below = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        yield words, parser
    for action in below:
        for name, inner in action.choices.items():
            yield from leaves(inner, (*words, name))


def parser_of(*words: str) -> ArgumentParser:
    """Return the parser that ``python -m babyvlm WORDS`` uses."""
    return capture_parser(command_line.run, list(words))


def options(parser: ArgumentParser) -> str:
    """Return the table of a command's arguments."""
    rows = []
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else action.dest
        if name in ("-h", "--help", "--config", "--print_config", "--version") or action.default == SUPPRESS:
            continue
        required = action.required or (not action.option_strings and action.nargs not in ("?", "*"))
        value = str(action.default).lower() if isinstance(action.default, bool) else str(action.default)
        default = "required" if required else code(value)
        kind = type_name(getattr(action, "_typehint", None) or action.type)
        rows.append((f"`{name}`", code(kind), default, cell(action.help or "")))
    return table(("option", "type", "default", "description"), rows)


def description(text: str) -> str:
    """Return a command's description as Markdown, with its example as a code block."""
    body, _, example = text.partition(EXAMPLE)
    parts = ["\n".join(line.strip() for line in body.strip().splitlines())]
    if example.strip():
        parts.append(f"```sh\n{textwrap.dedent(example.strip(chr(10))).strip()}\n```")
    return "\n\n".join(parts)


def command_section(words: tuple[str, ...], parser: ArgumentParser) -> str:
    """Return the section of one command."""
    return f"## {' '.join(words)}\n\n{description(parser.description or '')}\n\n{options(parser)}"


def lightning_options() -> str:
    """Return the table of the options that babyvlm adds to LightningCLI."""
    from lightning.pytorch.cli import LightningCLI

    from babyvlm.cli import lightning as our_cli

    ours = {action.dest: action for action in _lightning_parser(our_cli.BabyVLMCLI)._actions}
    known = {action.dest for action in _lightning_parser(LightningCLI)._actions}
    added = [
        action
        for name, action in ours.items()
        if name not in known
        and not name.startswith(("trainer", "model", "data", "optimizer"))
        and action.option_strings
    ]
    rows = [
        (f"`{action.option_strings[0]}`", code(str(action.default)), cell(action.help or ""))
        for action in added
        if action.help and SUPPRESS not in (action.help, action.default)
    ]
    return table(("option", "default", "description"), rows)


def _lightning_parser(cli: type) -> ArgumentParser:
    captured = capture_parser(cli, args=[])
    return next(inner for words, inner in leaves(captured, ()) if words == ("fit",))


def cli_page() -> str:
    """Return the CLI reference."""
    sections = [LIGHTNING + "\n" + lightning_options()]
    sections += [command_section(tuple(name.split()), parser_of(*name.split())) for name in command_line.COMMANDS]
    return CLI_INTRODUCTION + "\n" + "\n\n".join(sections)


def class_paths(tree: Any) -> Iterator[str]:  # noqa: ANN401 - parsed YAML
    """Yield every ``class_path`` of babyvlm in a parsed config."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "class_path" and isinstance(value, str) and value.startswith("babyvlm."):
                yield value
            else:
                yield from class_paths(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from class_paths(value)


def config_table(configs: dict[Path, Any]) -> str:
    """Return the table of the shipped configs with the comment at the head of each."""
    rows = []
    for path in configs:
        head = [line.lstrip("# ") for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
        rows.append((f"`{path.relative_to(ROOT)}`", cell(" ".join(head))))
    return table(("file", "content"), rows)


def class_section(class_path: str, used_in: list[Path]) -> str:
    """Return the settings of a class: the parameters of its constructor, with their docstrings."""
    module, _, name = class_path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    documentation = docstring_parser.parse(inspect.getdoc(owner) or "")
    inherited = [docstring_parser.parse(base.__doc__ or "") for base in owner.__mro__]
    text = {parameter.arg_name: parameter.description for parsed in reversed(inherited) for parameter in parsed.params}
    rows = []
    for parameter in inspect.signature(owner).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        empty = parameter.default is parameter.empty
        value = getattr(parameter.default, "__name__", None) or str(parameter.default)
        default = (
            "required" if empty else code(value if len(value) <= 40 else f"{value.split('(', maxsplit=1)[0]}(...)")
        )
        rows.append(
            (
                f"`{parameter.name}`",
                code(type_name(parameter.annotation)),
                default,
                cell(text.get(parameter.name) or ""),
            )
        )
    files = ", ".join(f"`{path.relative_to(ROOT / 'configs')}`" for path in used_in)
    summary = documentation.short_description or ""
    settings = table(("setting", "type", "default", "description"), rows)
    return f"### {name}\n\n`{class_path}`: {summary}\n\nUsed in {files}.\n\n{settings}"


def configuration_page() -> str:
    """Return the configuration reference."""
    configs = {path: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").rglob("*.yaml"))}
    used: dict[str, list[Path]] = {}
    for path, tree in configs.items():
        for class_path in class_paths(tree):
            used.setdefault(class_path, [])
            if path not in used[class_path]:
                used[class_path].append(path)
    parts = [CONFIGURATION_INTRODUCTION, "## Shipped configs\n", config_table(configs)]
    for title, prefix in SECTIONS.items():
        found = sorted(class_path for class_path in used if class_path.startswith(prefix + "."))
        parts += [f"## {title}\n", *(class_section(class_path, used[class_path]) for class_path in found)]
    return "\n".join(parts)


def tutorial_page(notebook: Path) -> str:
    """Return a notebook as Markdown: its text and its code, without outputs."""
    parts = []
    for part in json.loads(notebook.read_text())["cells"]:
        text = "".join(part["source"])
        parts.append(text if part["cell_type"] == "markdown" else f"```python\n{text}\n```")
    source = f"*This page is generated from the notebook `docs/tutorials/{notebook.name}`.*"
    return "\n\n".join([parts[0], source, *parts[1:]]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site (a hook of mkdocs)."""
    notebooks = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
    pages = {f"tutorials/{path.stem}.md": tutorial_page(path) for path in notebooks}
    arguments, sys.argv = sys.argv, ["babyvlm"]  # LightningCLI reads sys.argv
    try:
        pages |= {"reference/cli.md": cli_page(), "reference/configuration.md": configuration_page()}
    finally:
        sys.argv = arguments
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Link to the page of a tutorial in place of its notebook (a hook of mkdocs)."""
    return re.sub(r"\]\((?!\w+:)([^)\s]+)\.ipynb\)", r"](\1.md)", markdown)
