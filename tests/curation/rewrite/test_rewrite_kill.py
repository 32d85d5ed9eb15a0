"""SIGKILL at random moments: every row is accounted for, and the server computed no answer twice."""

import multiprocessing
import random
import signal
import time

import pytest

from support.fake_llm import serving
from support.rewriting import captions, ledger_rows, make_store, outcomes, rewrite_with_short_waits

CONCURRENT_REQUESTS = 4


@pytest.fixture(scope="module")
def processes():
    """Fork processes from one that has imported everything, which saves only their start-up time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["babyvlm.curation.rewrite.llm.rewriter", "babyvlm.curation.rewrite.stage", "pytest", "wordfreq"]
    )
    return context


def start(processes, folder, llm, batch, **more):
    options = {
        "store": folder / "in",
        "out": folder / "out",
        "method": "llm",
        "model": "m",
        "base_url": llm.base_url,
        "concurrent_requests": CONCURRENT_REQUESTS,
        "poll_seconds": 0.02,
        "batch": batch,
        "requests_per_batch": 12,
    }
    process = processes.Process(target=rewrite_with_short_waits, args=(options | more,))
    process.start()
    return process


def kill_and_finish(folder, processes, moments, batch, honors_keys):
    """Kill a job several times, let it finish, and check its results and the number of paid answers."""
    texts = captions(48)
    make_store(folder / "in", texts)
    landed = 0
    with serving() as llm:
        llm.seconds, llm.batch_seconds, llm.honors_keys = 0.03, 0.4, honors_keys
        for moment in moments:
            process = start(processes, folder, llm, batch)
            before, deadline = len(llm.authorizations), time.monotonic() + 200
            while len(llm.authorizations) == before and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.001)  # until it contacts the server: before that there is nothing to lose
            time.sleep(moment * 0.3)  # less than the complete job takes
            process.kill()
            process.join()
            landed += process.exitcode == -signal.SIGKILL
        last = start(processes, folder, llm, batch)
        last.join(200)
        assert last.exitcode == 0
        found = outcomes(folder)
        assert landed
        if batch:
            assert all(isinstance(outcome, str) for outcome in found.values())
            assert set(llm.paid.values()) == {1}
            return
        in_flight = {texts[int(key[2:])] for key, outcome in found.items() if not isinstance(outcome, str)}
        assert {o for o in found.values() if not isinstance(o, str)} <= {("failed", "in flight when a run was killed")}
        assert len(in_flight) <= landed * CONCURRENT_REQUESTS
        assert max(llm.paid.values()) == 1
        assert set(texts) - in_flight <= llm.paid.keys()
        (folder / "out").rename(folder / "first")
        last = start(processes, folder, llm, batch, retry_failed=True)
        last.join(200)
        assert all(isinstance(outcome, str) for outcome in outcomes(folder).values())
        # Repeated on request: without idempotency keys only these may be paid a second time.
        assert {text for text, count in llm.paid.items() if count > 1} <= (set() if honors_keys else in_flight)
        assert ledger_rows(folder / "rewrites.sqlite", "SELECT count(*) FROM calls WHERE state = 'open'") == [(0,)]


def random_moments(seed, count):
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


@pytest.mark.parametrize("batch", [False, True])
def test_rewrite_survives_random_kills(tmp_path, processes, batch):
    kill_and_finish(tmp_path, processes, random_moments(time.time_ns(), 2), batch, honors_keys=False)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("batch", [False, True])
def test_rewrite_survives_twenty_random_kills(tmp_path, processes, batch, seed):
    kill_and_finish(tmp_path, processes, random_moments(seed, 2), batch, honors_keys=bool(seed % 2))
