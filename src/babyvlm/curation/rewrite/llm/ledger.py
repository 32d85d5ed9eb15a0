"""Record of all calls, answers and costs: a SQLite file in which every step is durable before the next one starts.

A call is recorded as ``open`` before it is sent, and as ``answered`` or ``failed`` when its reply arrives. After a
crash, the open calls are exactly those that may have been billed without a stored answer. They become failures ("in
flight when a run was killed") and are repeated only on the user's request.

Written by hand on purpose: what must not be lost or paid twice depends on the order of these few statements.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Self

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from babyvlm.curation.rewrite.llm.prompt import Paid, Reply

FORMAT = 2  # 1 (version 0.1) had no endpoint; its prompts differ too, so none of its answers can be reused
MAX_INVALID_ANSWER = 2000  # characters of an invalid answer that are stored: enough to see what went wrong
IN_FLIGHT = "in flight when a run was killed"
CALL_COLUMNS = (  # but for the batch, whose number means something only in its own ledger
    "caption, prompt, model, endpoint, attempt, state, idempotency_key, content, reason, paid, input_tokens, "
    "output_tokens"
)
TABLES = """
CREATE TABLE batches (
    number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, model TEXT NOT NULL, base_url TEXT NOT NULL,
    tag TEXT NOT NULL UNIQUE, file_id TEXT, batch_id TEXT,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'collected'))
);
CREATE TABLE calls (
    caption TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'answered', 'failed')),
    idempotency_key TEXT NOT NULL, batch INTEGER REFERENCES batches (number),
    content TEXT, reason TEXT NOT NULL DEFAULT '', paid TEXT NOT NULL DEFAULT 'maybe',
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    PRIMARY KEY (caption, prompt, model, endpoint, attempt)
) WITHOUT ROWID;
CREATE INDEX calls_open ON calls (batch) WHERE state = 'open';
"""


@dataclass(frozen=True)
class Call:
    """The most recent call for a caption."""

    attempt: int
    state: Literal["open", "answered", "failed"]
    idempotency_key: str
    content: str | None
    reason: str
    paid: Paid


@dataclass(frozen=True)
class PendingBatch:
    """A batch that is not collected yet. Without ``batch_id``, it is unknown whether the server has it."""

    number: int
    tag: str
    base_url: str
    file_id: str | None
    batch_id: str | None


class Ledger:
    """The calls for one prompt, model and server. Others may share the file; costs are counted for all servers.

    Args:
        path: SQLite file; created if it does not exist.
        prompt: ``prompt_id()``.
        model: name of the model on the server.
        endpoint: URL of the server: models of the same name on two servers may differ.

    Attributes:
        interrupted: number of calls that were open when an earlier run was killed.

    Raises:
        UserError: the file is not a ledger, another run uses it, or the disk is full.
    """

    def __init__(self, path: Path, prompt: str, model: str, endpoint: str) -> None:
        self.path, self.prompt, self.model, self.endpoint = path, prompt, model, endpoint.rstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        with self._readable_errors():
            # Locked until the process ends, so that no other run mistakes its open calls for those of a killed run.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                self._create_tables()
                self.interrupted = self._close_interrupted()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the block durable at its end, or none of them."""
        with self._readable_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def last(self, caption: str) -> Call | None:
        """Return the most recent call for a caption (by its digest)."""
        query = """SELECT attempt, state, idempotency_key, content, reason, paid FROM calls
                   WHERE caption = ? AND prompt = ? AND model = ? AND endpoint = ? ORDER BY attempt DESC LIMIT 1"""
        row = self._db.execute(query, self._key(caption)).fetchone()
        return Call(*row) if row else None

    def open(self, caption: str, max_input: int, max_output: int, batch: int | None = None) -> str:
        """Record that a call for a caption is about to be sent, at its maximum cost.

        A call that may have been billed is repeated with its previous idempotency key: a server that honors the key
        returns the answer already paid for.

        Args:
            caption: digest of the caption.
            max_input: upper bound on the input tokens.
            max_output: upper bound on the output tokens.
            batch: number of the batch that contains the call.

        Returns:
            The idempotency key of the call.
        """
        previous = self.last(caption)
        attempt = previous.attempt + 1 if previous else 1
        new_key = hashlib.sha256(" ".join((*self._key(caption), str(attempt))).encode()).hexdigest()
        key = previous.idempotency_key if previous and previous.paid == "maybe" else new_key
        self._change(
            """INSERT INTO calls
               (caption, prompt, model, endpoint, attempt, idempotency_key, batch, input_tokens, output_tokens)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (*self._key(caption), attempt, key, batch, max_input, max_output),
        )
        return key

    def close(self, caption: str, reply: Reply) -> bool:
        """Record the reply of an open call. Returns whether the call was open: a duplicate reply is ignored."""
        state = "failed" if reply.reason else "answered"
        content = reply.content[:MAX_INVALID_ANSWER] if reply.content and reply.reason else reply.content
        input_tokens, output_tokens = (0, 0) if reply.paid == "no" else (reply.input_tokens, reply.output_tokens)
        changed = self._change(
            """UPDATE calls SET state = ?, content = ?, reason = ?, paid = ?,
               input_tokens = coalesce(?, input_tokens), output_tokens = coalesce(?, output_tokens)
               WHERE caption = ? AND prompt = ? AND model = ? AND endpoint = ? AND state = 'open'""",
            (state, content, reply.reason, reply.paid, input_tokens, output_tokens, *self._key(caption)),
        )
        return changed > 0

    def forget(self, caption: str) -> None:
        """Delete an open call that was certainly not made."""
        self._change(
            "DELETE FROM calls WHERE caption = ? AND prompt = ? AND model = ? AND endpoint = ? AND state = 'open'",
            self._key(caption),
        )

    def copy_calls(self, path: Path, captions: Collection[str]) -> None:
        """Copy the calls for captions (by their digests) from another ledger, unless this one has them.

        Args:
            path: the other ledger, which no process uses; nothing happens if it does not exist. It is left as it is.
            captions: digests.

        Raises:
            UserError: the file is not a ledger, or a batch in it is pending.
        """
        insert = (
            f"INSERT OR IGNORE INTO calls ({CALL_COLUMNS}) VALUES ({', '.join('?' * len(CALL_COLUMNS.split(',')))})"
        )
        with TemporaryDirectory() as folder:
            # A copy with its write-ahead log, which SQLite recovers after a kill: nothing is written to the other.
            for file in (path, path.with_name(f"{path.name}-wal")):
                if file.exists():
                    shutil.copy(file, folder)
            with Ledger(Path(folder, path.name), self.prompt, self.model, self.endpoint) as other, self.transaction():
                if other.pending_batches():
                    raise UserError(f"{path}: a batch is pending. Collect it first with --batch true")
                calls = other._db.execute(f"SELECT {CALL_COLUMNS} FROM calls WHERE state != 'open'")
                self._db.executemany(insert, (call for call in calls if call[0] in captions))

    def tokens(self) -> dict[bool, tuple[int, int]]:
        """Return the billed (input, output) tokens, by whether in batches; uncertain calls with their upper bound."""
        query = """SELECT batch IS NOT NULL, sum(input_tokens), sum(output_tokens) FROM calls
                   WHERE prompt = ? AND model = ? GROUP BY 1"""
        return {bool(row[0]): (row[1], row[2]) for row in self._db.execute(query, (self.prompt, self.model))}

    def has_answers(self) -> bool:
        """Return whether this server has given a valid answer."""
        query = "SELECT 1 FROM calls WHERE prompt = ? AND model = ? AND endpoint = ? AND state = 'answered' LIMIT 1"
        return self._db.execute(query, (self.prompt, self.model, self.endpoint)).fetchone() is not None

    def mean_tokens(self) -> tuple[int, float, float]:
        """Return the number of answers and their mean input and output tokens."""
        query = """SELECT count(*), coalesce(avg(input_tokens), 0), coalesce(avg(output_tokens), 0) FROM calls
                   WHERE prompt = ? AND model = ? AND state = 'answered'"""
        count, mean_input, mean_output = self._db.execute(query, (self.prompt, self.model)).fetchone()
        return int(count), float(mean_input), float(mean_output)

    def count_answers(self, prompt: str) -> int:
        """Return the number of answers to a prompt (``prompt_id()``) with any settings, of this model and server."""
        query = """SELECT count(DISTINCT caption) FROM calls
                   WHERE substr(prompt, 1, length(?1)) = ?1 AND model = ?2 AND endpoint = ?3 AND state = 'answered'"""
        return int(self._db.execute(query, (prompt, self.model, self.endpoint)).fetchone()[0])

    def pending_batches(self) -> list[PendingBatch]:
        """Return the batches that are not collected yet, oldest first."""
        query = """SELECT number, tag, base_url, file_id, batch_id FROM batches
                   WHERE prompt = ? AND model = ? AND state = 'pending' ORDER BY number"""
        return [PendingBatch(*row) for row in self._db.execute(query, (self.prompt, self.model))]

    def open_calls(self, batch: int) -> list[str]:
        """Return the digests of the captions of a batch that have no reply yet."""
        query = "SELECT caption FROM calls WHERE batch = ? AND state = 'open'"
        return [row[0] for row in self._db.execute(query, (batch,))]

    def add_batch(self, tag: str, base_url: str) -> int:
        """Record that a batch is about to be sent. Returns its number."""
        insert = "INSERT INTO batches (prompt, model, base_url, tag) VALUES (?, ?, ?, ?) RETURNING number"
        return int(self._db.execute(insert, (self.prompt, self.model, base_url, tag)).fetchone()[0])

    def update_batch(self, number: int, column: Literal["file_id", "batch_id", "state"], value: str) -> None:
        """Record a change of a batch."""
        self._change(f"UPDATE batches SET {column} = ? WHERE number = ?", (value, number))

    def _key(self, caption: str) -> tuple[str, str, str, str]:
        return caption, self.prompt, self.model, self.endpoint

    def _create_tables(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not found and not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise UserError(
                f"{self.path}: not a ledger of this version (format {found}, expected {FORMAT}). Move "
                "the file away or pass a different --ledger"
            )

    def _close_interrupted(self) -> int:
        return self._change(
            "UPDATE calls SET state = 'failed', reason = ? WHERE state = 'open' AND batch IS NULL", (IN_FLIGHT,)
        )

    def _change(self, statement: str, values: tuple[object, ...]) -> int:
        """Return the number of changed rows. Durable at once, or with the surrounding transaction."""
        with self._readable_errors():
            return self._db.execute(statement, values).rowcount

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into errors of one line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise UserError(f"{self.path}: in use by another process. Wait until it has finished") from None
            raise UserError(f"{self.path}: not usable as a ledger ({error})") from None
