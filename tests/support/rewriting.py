"""What the tests of rewriting by a language model share."""

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
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "pink", "black", "white", "brown")
THINGS = ("ball", "cup", "dog", "cat", "car", "bed", "duck", "hat", "shoe", "spoon", "tree", "book")


def captions(count):
    """Different captions that a good model says something for."""
    return [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS][:count]


def make_store(path, texts, licensed=False):
    rows = [
        {"key": f"w/{i}", "image": b"i", "utterance": text, "source": "w", "group": f"w/{i}", "split": "train"}
        for i, text in enumerate(texts)
    ]
    return write_store(path, rows, arguments={}, funnel=Funnel("x"), licensed=licensed).path


def run(folder, mind, out="out", **options):
    """Rewrite ``folder/in`` by the fake server; returns what became of each key, after counting every row."""
    options = {
        "method": "llm",
        "model": "m",
        "base_url": mind.base_url,
        "poll_seconds": 0.02,
        "timeout": 10.0,
    } | options
    rewrite(folder / "in", folder / out, **options)
    return outcomes(folder, out)


def outcomes(folder, out="out"):
    """``{key: utterance or (outcome, reason)}``; each row of the source is in it once."""
    said = {row["key"]: row["utterance"] for row in PairStore(folder / out).rows()}
    with (folder / f"{out}.left_out.csv").open(newline="") as file:
        left = {row["key"]: (row["outcome"], row["reason"]) for row in csv.DictReader(file)}
    assert not said.keys() & left.keys()
    assert said.keys() | left.keys() == {row["key"] for row in PairStore(folder / "in").rows()}
    funnel = PairStore(folder / out).manifest["funnel"]
    assert (funnel["in"], funnel["kept"]) == (len(said) + len(left), len(said))
    return said | left


def ledger_rows(path, query):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def quick():
    """Waits fit for a test."""
    babyvlm.curation.rewrite.llm.client.FIRST_WAIT = 0.01
    babyvlm.curation.rewrite.llm.client.MAX_WAIT = 0.02
    babyvlm.curation.rewrite.llm.client.TRIES = 4
    babyvlm.curation.rewrite.llm.batch.SETTLE_SECONDS = 0.3


def rewrite_quickly(options):
    """The command, in a process that is there to be killed."""
    quick()
    rewrite(**options)
