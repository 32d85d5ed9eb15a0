"""What was asked, answered and paid: a SQLite file in which every step is durable before the next is taken.

A call is written down as ``open`` before it is sent, and as ``answered`` or ``failed`` as soon as its reply is there.
So after any crash the open calls are exactly those that may have been paid without an answer being kept. They become
failures ("in flight at a crash") and are asked again only when the user says so.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from babyvlm.curation.rewrite.llm.prompt import Paid, Reply

FORMAT = 1
KEPT_CHARACTERS = 2000  # of an answer that is none: enough to see what went wrong
IN_FLIGHT = "in flight at a crash"
TABLES = """
CREATE TABLE batches (
    number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, model TEXT NOT NULL, base_url TEXT NOT NULL,
    tag TEXT NOT NULL UNIQUE, file_id TEXT, batch_id TEXT,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'collected'))
);
CREATE TABLE calls (
    caption TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, attempt INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'answered', 'failed')),
    idempotency_key TEXT NOT NULL, batch INTEGER REFERENCES batches (number),
    content TEXT, reason TEXT NOT NULL DEFAULT '', paid TEXT NOT NULL DEFAULT 'maybe',
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    PRIMARY KEY (caption, prompt, model, attempt)
) WITHOUT ROWID;
CREATE INDEX calls_open ON calls (batch) WHERE state = 'open';
"""


@dataclass(frozen=True)
class Call:
    """The last call for a caption."""

    attempt: int
    state: Literal["open", "answered", "failed"]
    idempotency_key: str
    content: str | None
    reason: str
    paid: Paid


@dataclass(frozen=True)
class Batch:
    """A batch that is not collected yet; without ``batch_id`` it is not known whether the server has it."""

    number: int
    tag: str
    base_url: str
    file_id: str | None
    batch_id: str | None


class Ledger:
    """The calls of one prompt and model; other prompts and models may share the file.

    Args:
        path: the file; made if it is not there.
        prompt: ``prompt_id()``.
        model: as the server names it.

    Raises:
        UserError: the file is no ledger, another run holds it, or the disk is full.
    """

    def __init__(self, path: Path, prompt: str, model: str) -> None:
        self.path, self.prompt, self.model = path, prompt, model
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        with self._told():
            # The lock lasts as long as the process, so that no second run takes this one's open calls for a crash.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                self._make_tables()
                self.crashed = self._close_crashed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's changes, durable at its end, or none."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def last(self, caption: str) -> Call | None:
        """The last call for a caption (by its digest)."""
        query = """SELECT attempt, state, idempotency_key, content, reason, paid FROM calls
                   WHERE caption = ? AND prompt = ? AND model = ? ORDER BY attempt DESC LIMIT 1"""
        row = self._db.execute(query, (caption, self.prompt, self.model)).fetchone()
        return Call(*row) if row else None

    def open(self, caption: str, most_input: int, most_output: int, batch: int | None = None) -> str:
        """Write down that a caption is about to be asked, at its highest price.

        A call that may have been paid is repeated under its old idempotency key: a server that honours it gives the
        answer that was paid for.

        Returns:
            The call's idempotency key.
        """
        before = self.last(caption)
        attempt = before.attempt + 1 if before else 1
        fresh = hashlib.sha256(f"{caption} {self.prompt} {self.model} {attempt}".encode()).hexdigest()
        key = before.idempotency_key if before and before.paid == "maybe" else fresh
        self._change(
            """INSERT INTO calls (caption, prompt, model, attempt, idempotency_key, batch, input_tokens, output_tokens)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (caption, self.prompt, self.model, attempt, key, batch, most_input, most_output),
        )
        return key

    def close(self, caption: str, reply: Reply) -> bool:
        """Write down how an open call came out; tell whether there was one (a second reply finds none)."""
        state = "failed" if reply.reason else "answered"
        content = reply.content[:KEPT_CHARACTERS] if reply.content and reply.reason else reply.content
        free = 0 if reply.paid == "no" else None
        return (
            self._change(
                """UPDATE calls SET state = ?, content = ?, reason = ?, paid = ?,
               input_tokens = coalesce(?, input_tokens), output_tokens = coalesce(?, output_tokens)
               WHERE caption = ? AND prompt = ? AND model = ? AND state = 'open'""",
                (
                    state,
                    content,
                    reply.reason,
                    reply.paid,
                    reply.input_tokens if free is None else free,
                    reply.output_tokens if free is None else free,
                    caption,
                    self.prompt,
                    self.model,
                ),
            )
            > 0
        )

    def forget(self, caption: str) -> None:
        """Take back an open call that was certainly not made."""
        self._change(
            "DELETE FROM calls WHERE caption = ? AND prompt = ? AND model = ? AND state = 'open'",
            (caption, self.prompt, self.model),
        )

    def tokens(self) -> dict[bool, tuple[int, int]]:
        """Input and output tokens paid for, by whether in batches; those that may have been are taken at the most."""
        query = """SELECT batch IS NOT NULL, sum(input_tokens), sum(output_tokens) FROM calls
                   WHERE prompt = ? AND model = ? GROUP BY 1"""
        return {bool(row[0]): (row[1], row[2]) for row in self._db.execute(query, (self.prompt, self.model))}

    def mean_tokens(self) -> tuple[int, float, float]:
        """Number of answers, and their mean input and output tokens."""
        query = """SELECT count(*), coalesce(avg(input_tokens), 0), coalesce(avg(output_tokens), 0) FROM calls
                   WHERE prompt = ? AND model = ? AND state = 'answered'"""
        count, mean_input, mean_output = self._db.execute(query, (self.prompt, self.model)).fetchone()
        return int(count), float(mean_input), float(mean_output)

    def pending_batches(self) -> list[Batch]:
        """Batches that are not collected, oldest first."""
        query = """SELECT number, tag, base_url, file_id, batch_id FROM batches
                   WHERE prompt = ? AND model = ? AND state = 'pending' ORDER BY number"""
        return [Batch(*row) for row in self._db.execute(query, (self.prompt, self.model))]

    def open_in(self, batch: int) -> list[str]:
        """Captions (digests) whose reply a batch still owes."""
        query = "SELECT caption FROM calls WHERE batch = ? AND state = 'open'"
        return [row[0] for row in self._db.execute(query, (batch,))]

    def add_batch(self, tag: str, base_url: str) -> int:
        """Write down that a batch is about to be sent; returns its number."""
        insert = "INSERT INTO batches (prompt, model, base_url, tag) VALUES (?, ?, ?, ?) RETURNING number"
        return int(self._db.execute(insert, (self.prompt, self.model, base_url, tag)).fetchone()[0])

    def update_batch(self, number: int, column: Literal["file_id", "batch_id", "state"], value: str) -> None:
        """Write down what became of a batch."""
        self._change(f"UPDATE batches SET {column} = ? WHERE number = ?", (value, number))

    def _make_tables(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not found and not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise UserError(f"{self.path}: not a ledger of this version (format {found}, wanted {FORMAT})")

    def _close_crashed(self) -> int:
        return self._change(
            "UPDATE calls SET state = 'failed', reason = ? WHERE state = 'open' AND batch IS NULL", (IN_FLIGHT,)
        )

    def _change(self, statement: str, values: tuple[object, ...]) -> int:
        """Number of rows changed; durable at once, or with the transaction around it."""
        with self._told():
            return self._db.execute(statement, values).rowcount

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what SQLite complains about."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise UserError(
                    f"{self.path}: another run or program holds this ledger; wait until it has ended"
                ) from None
            raise UserError(f"{self.path}: the ledger cannot be used ({error})") from None
