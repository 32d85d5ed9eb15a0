"""Helpers for tests of rewriting with a language model."""

import csv
import sqlite3
from contextlib import closing

import babyvlm.curation.rewrite.llm.batch
import babyvlm.curation.rewrite.llm.client
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.stage import rewrite
from babyvlm.curation.store.pair_store import PairStore, write_store

PRICES = """
currency = "USD"
[models."m"]
input = 2.5
output = 10.0
batch_input = 1.25
batch_output = 5.0
seconds_per_call = 1.0
requests_per_minute = 5000
tokens_per_minute = 800000
batch_queue_tokens = 50000000
batch_hours = 24
"""
COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "pink", "black", "white", "brown")
THINGS = ("ball", "cup", "dog", "cat", "car", "bed", "duck", "hat", "shoe", "spoon", "tree", "book")


def captions(count):
    """Return distinct captions for which a good model writes an utterance."""
    return [f"a {color} {thing}" for thing in THINGS for color in COLORS][:count]


def make_store(path, texts, licensed=False):
    rows = [
        {"key": f"w/{i}", "image": b"i", "utterance": text, "source": "w", "group": f"w/{i}", "split": "train"}
        for i, text in enumerate(texts)
    ]
    return write_store(path, rows, arguments={}, funnel=Funnel("test"), licensed=licensed).path


def run(folder, llm, out="out", **options):
    """Rewrite ``folder/in`` with the fake server. Returns the outcome of each key, after checking the counts."""
    options = {
        "method": "llm",
        "model": "m",
        "base_url": llm.base_url,
        "poll_seconds": 0.02,
        "timeout": 10.0,
    } | options
    rewrite(folder / "in", folder / out, **options)
    return outcomes(folder, out)


def outcomes(folder, out="out"):
    """Return ``{key: utterance or (outcome, reason)}``, with each row of the source exactly once."""
    kept = {row["key"]: row["utterance"] for row in PairStore(folder / out).rows()}
    with (folder / f"{out}.left_out.csv").open(newline="") as file:
        left_out = {row["key"]: (row["outcome"], row["reason"]) for row in csv.DictReader(file)}
    assert not kept.keys() & left_out.keys()
    assert kept.keys() | left_out.keys() == {row["key"] for row in PairStore(folder / "in").rows()}
    funnel = PairStore(folder / out).manifest["funnel"]
    assert (funnel["in"], funnel["kept"]) == (len(kept) + len(left_out), len(kept))
    return kept | left_out


def ledger_rows(path, query):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def shorten_waits():
    """Shorten the waits between attempts."""
    babyvlm.curation.rewrite.llm.client.FIRST_WAIT = 0.01
    babyvlm.curation.rewrite.llm.client.MAX_WAIT = 0.02
    babyvlm.curation.rewrite.llm.client.MAX_ATTEMPTS = 4
    babyvlm.curation.rewrite.llm.batch.SETTLE_SECONDS = 0.3


def rewrite_with_short_waits(options):
    """Run the command; the target of a process that is killed."""
    shorten_waits()
    rewrite(**options)
