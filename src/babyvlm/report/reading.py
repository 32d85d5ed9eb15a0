"""Read files of a run, which may be damaged."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from babyvlm.errors import UserError

Config = dict[str, Any]

# What reading and using a damaged file raises. pyarrow's errors are among them.
DAMAGE = (
    UserError,
    OSError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    yaml.YAMLError,
    pa.ArrowException,
)


def read_bytes(file: Path, limit: int) -> bytes:
    """Return the content of a file of a run; empty if there is no such file.

    Raises:
        UserError: it cannot be read, is no regular file, or is too large.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file}: is not a regular file")
        if status.st_size > limit:
            raise UserError(f"{file}: is larger than {limit >> 20} MiB")
        return file.read_bytes()
    except FileNotFoundError:
        if file.is_symlink():
            raise UserError(f"{file}: is a link to a missing file") from None
        return b""
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def mapping(value: object) -> Config:
    """Return a value if it is a mapping, and an empty one otherwise."""
    return value if isinstance(value, dict) else {}
