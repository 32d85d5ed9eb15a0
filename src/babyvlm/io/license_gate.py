"""The gate that everything passes before it leaves this machine: exports, uploads, and requests to servers.

Whether data are licensed is decided by manifests (``artifacts.is_licensed``), for runs and benchmark lists by
``report/license.py``. Reports and pages leave out what this gate would refuse; loggers receive numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PERMIT = "If your license allows it, pass --licensed_export true"


def require_free(source: Path, *, licensed: bool, permitted: bool = False, remedy: str = PERMIT) -> Mapping[str, bool]:
    """Check that data, or weights that were trained on them, may leave this machine.

    Args:
        source: names them in the message.
        licensed: whether they, or anything that they were made from, are licensed or not known to be free.
        permitted: the user's own statement that the license allows it (``--licensed_export true``).
        remedy: what the user can do instead.

    Returns:
        What the artifact that leaves the machine records about it; empty if nothing is licensed.

    Raises:
        UserError: they are licensed, and that was not permitted.
    """
    if not licensed:
        return {}
    if not permitted:
        raise UserError(
            f"{source}: is licensed, or not known to be free, so neither it nor what was made from it may leave this "
            f"machine. {remedy}"
        )
    return {"licensed_export": True}
