"""The result files of a batch: a line for each request, in any order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from babyvlm.curation.rewrite.llm.prompt import Reply, read_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOT_EXECUTED = ("batch_expired", "batch_cancelled")  # codes of requests that were not run and are not billed


def read_results(content: bytes, scrub: Callable[[str], str]) -> Iterator[tuple[str, Reply | None]]:
    """(custom_id, reply) of each line; None for a request that was not executed.

    A line that cannot be read is left out: its request will be missing, and says so.

    Args:
        content: an output or error file.
        scrub: takes secrets out of text that a server wrote.
    """
    for line in content.decode("utf-8", "replace").split("\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("custom_id"), str):
            yield entry["custom_id"], _reply(entry, scrub)


def _reply(entry: dict[str, Any], scrub: Callable[[str], str]) -> Reply | None:
    error, response = entry.get("error"), entry.get("response")
    if isinstance(error, dict) and error.get("code") in NOT_EXECUTED:
        return None
    if not isinstance(response, dict) or not isinstance(response.get("status_code"), int):
        return Reply(reason="reply not understood", paid="maybe")
    if response["status_code"] != 200:
        return Reply(reason=f"server error {response['status_code']}", paid="no")
    return read_reply(response.get("body"), scrub)
