"""SIGKILL at random moments: every row is accounted for, and the server's books show no call paid twice."""

import multiprocessing
import random
import signal
import time

import pytest

from support.fake_llm import serving
from support.rewriting import captions, ledger_rows, make_store, outcomes, rewrite_quickly

CONCURRENT_REQUESTS = 4


@pytest.fixture(scope="module")
def processes():
    """Real processes, forked from one that has imported everything: only starting up is saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["babyvlm.curation.rewrite.llm.rewriter", "babyvlm.curation.rewrite.stage", "pytest", "wordfreq"]
    )
    return context


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def start(processes, folder, mind, batch, **more):
    options = {
        "store": folder / "in",
        "out": folder / "out",
        "method": "llm",
        "model": "m",
        "base_url": mind.base_url,
        "concurrent_requests": CONCURRENT_REQUESTS,
        "poll_seconds": 0.02,
        "batch": batch,
        "requests_per_batch": 12,
    }
    process = processes.Process(target=rewrite_quickly, args=(options | more,))
    process.start()
    return process


def kill_and_finish(folder, processes, moments, batch, honours_keys):
    """Kill a job at moments of its time, let it end, and audit what it left and what the server was paid."""
    texts = captions(48)
    make_store(folder / "in", texts)
    landed = 0
    with serving() as mind:
        mind.seconds, mind.batch_seconds, mind.honours_keys = 0.03, 0.4, honours_keys
        for moment in moments:
            process = start(processes, folder, mind, batch)
            before, deadline = len(mind.authorizations), time.monotonic() + 20
            while len(mind.authorizations) == before and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.001)  # until it speaks to the server: before that there is nothing to lose
            time.sleep(moment * 0.3)  # less than the whole job takes
            process.kill()
            process.join()
            landed += process.exitcode == -signal.SIGKILL
        last = start(processes, folder, mind, batch)
        last.join(60)
        assert last.exitcode == 0
        found = outcomes(folder)
        assert landed
        if batch:
            assert all(isinstance(outcome, str) for outcome in found.values())
            assert set(mind.paid.values()) == {1}
            return
        in_flight = {texts[int(key[2:])] for key, outcome in found.items() if not isinstance(outcome, str)}
        assert {o for o in found.values() if not isinstance(o, str)} <= {("failed", "in flight at a crash")}
        assert len(in_flight) <= landed * CONCURRENT_REQUESTS
        assert max(mind.paid.values()) == 1
        assert set(texts) - in_flight <= mind.paid.keys()
        (folder / "out").rename(folder / "first")
        last = start(processes, folder, mind, batch, retry_failed=True)
        last.join(60)
        assert all(isinstance(outcome, str) for outcome in outcomes(folder).values())
        # Asked for by the user: without idempotency keys these, and no others, may be paid a second time.
        assert {text for text, count in mind.paid.items() if count > 1} <= (set() if honours_keys else in_flight)
        assert ledger_rows(folder / "rewrites.sqlite", "SELECT count(*) FROM calls WHERE state = 'open'") == [(0,)]


def moments(seed, count):
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


@pytest.mark.parametrize("batch", [False, True])
def test_killed(tmp_path, processes, batch):
    kill_and_finish(tmp_path, processes, moments(time.time_ns(), 2), batch, honours_keys=False)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("batch", [False, True])
def test_killed_at_twenty_moments(tmp_path, processes, batch, seed):
    kill_and_finish(tmp_path, processes, moments(seed, 2), batch, honours_keys=bool(seed % 2))
