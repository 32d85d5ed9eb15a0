"""Checks of parsed settings before anything is built: numbers in their range, no `null` where a value is needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module

from jsonargparse import Namespace

from babyvlm.config import LINKED
from babyvlm.errors import UserError
from babyvlm.ranges import RANGES, check_range

_FROM_DATA = [f"model.{name}" for name in LINKED]  # reported as options of the data


def check_settings(config: Namespace) -> None:
    """Check parsed settings.

    Raises:
        UserError: a number is out of range, a list of stores is empty, or a value is `null` that must not be; the
            message begins with the option's name.
    """
    for key, owner, name, value in _options(config, ""):
        if key in _FROM_DATA:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and name in RANGES:
            check_range(key, name, value)
        if name == "sources" and value == []:
            raise UserError(f"{key}: is empty. Name at least one store, '[{{store: NAME}}]'")
        if value is None and owner is not None and not _may_be_none(owner, name):
            raise UserError(f"{key}: null is not a value of this option. Leave it out to use the default")


def restore_null(config: Namespace, owner: str | None = None) -> None:
    """Replace the text ``None`` by None in place, where an argument of a class accepts None.

    jsonargparse (at least up to 4.53) turns ``null`` into that text if the option belongs to a class within a class, as
    in ``--model.vision.weights null``.
    """
    for name, value in vars(config).items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Namespace):
                path = inner.get("class_path")
                arguments = inner.get("init_args")
                if isinstance(path, str) and isinstance(arguments, Namespace):
                    restore_null(arguments, path)
                else:
                    restore_null(inner)
        if value == "None" and owner is not None and _may_be_none(owner, name):
            setattr(config, name, None)


def _options(value: object, key: str, owner: str | None = None) -> Iterator[tuple[str, str | None, str, object]]:
    """Yield the dotted name of each option as on the command line, the class it belongs to, its name, and its value."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _options(inner, f"{key}.{number}")
    if not isinstance(value, Mapping):
        return
    path = value.get("class_path")
    if isinstance(path, str) and "init_args" in value:
        yield from _options(value["init_args"], key, path)
        return
    for name, inner in value.items():
        here = f"{key}.{name}" if key else str(name)
        yield here, owner, str(name), inner
        yield from _options(inner, here)


def _may_be_none(path: str, name: str) -> bool:
    """Return whether an argument of a class accepts None, by its annotation or its default."""
    module, _, attribute = path.rpartition(".")
    try:
        argument = inspect.signature(getattr(import_module(module), attribute)).parameters[name]
    except (ImportError, AttributeError, KeyError, ValueError, TypeError):
        return True
    text = str(argument.annotation)
    return argument.default is None or any(word in text for word in ("None", "Optional", "Any", "empty"))
