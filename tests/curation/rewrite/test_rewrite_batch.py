"""Rewriting with the Batch API of a local server, with faults between sending and collecting."""

import json

import pytest

from babyvlm.curation.rewrite.llm import batch, prompt
from babyvlm.curation.rewrite.llm.batch import read_results
from babyvlm.curation.rewrite.llm.settings import RequestSettings
from babyvlm.curation.rewrite.stage import rewrite
from babyvlm.errors import UserError
from support.fake_llm import sensible, serving
from support.rewriting import PRICES, captions, ledger_rows, make_store, run

pytestmark = pytest.mark.usefixtures("short_waits")


def in_batches(folder, llm, **options):
    return run(folder, llm, batch=True, **{"requests_per_batch": 8} | options)


def requests(llm, name):
    return [json.loads(line) for line in llm.files[llm.batches[name]["input_file_id"]].decode().splitlines()]


def test_rewrite_sends_batches_of_requested_size(tmp_path, llm):
    make_store(tmp_path / "in", [*captions(20), "a red ball"])
    found = in_batches(tmp_path, llm)
    assert found == run(tmp_path, llm, out="one_by_one", ledger=tmp_path / "l")
    assert [len(requests(llm, name)) for name in llm.batches] == [8, 8, 4]
    line = requests(llm, "batch_0")[0]
    assert line["custom_id"] == prompt.digest("a red ball")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == RequestSettings().body(prompt.REWRITE_PROMPT, "m", "a red ball")
    assert set(llm.paid.values()) == {2}
    before = len(llm.batches)
    assert in_batches(tmp_path, llm, out="again") == found
    assert len(llm.batches) == before


def test_rewrite_limits_batch_file_size(tmp_path, llm, monkeypatch):
    make_store(tmp_path / "in", captions(7))
    monkeypatch.setattr(
        batch,
        "MAX_BYTES",
        2 * len(json.dumps(RequestSettings().body(prompt.REWRITE_PROMPT, "m", "a yellow ball"))) + 400,
    )
    in_batches(tmp_path, llm)
    assert max(len(llm.files[b["input_file_id"]]) for b in llm.batches.values()) <= batch.MAX_BYTES
    assert [len(requests(llm, name)) for name in llm.batches] == [2, 2, 2, 1]
    assert set(llm.paid.values()) == {1}


def test_rewrite_resends_only_expired_requests(tmp_path, llm):
    make_store(tmp_path / "in", captions(16))
    llm.batch_plan = [{"status": "expired", "expired": 0.5}, {"status": "expired", "expired": 0.25}]
    found = in_batches(tmp_path, llm)
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert set(llm.paid.values()) == {1}
    assert sum(len(requests(llm, name)) for name in llm.batches) == 16 + 4 + 2


def test_rewrite_handles_duplicate_truncated_missing_and_failed_results(tmp_path, llm):
    make_store(tmp_path / "in", captions(16))
    llm.batch_plan = [{"twice": 5, "cut": 1, "missing": 2, "failing": 2}]
    llm.answer = lambda c: sensible(c) if c != "a blue cup" else '{"relevant": tr'
    found = in_batches(tmp_path, llm, requests_per_batch=16)
    reasons = sorted(outcome[1] for outcome in found.values() if not isinstance(outcome, str))
    # The truncated line is a failed one. Duplicates come later, with another answer that does not count.
    assert reasons[-1] == "server error 500"
    assert reasons.count("no reply in the batch") in (2, 3)
    assert len(reasons) in (4, 5)
    assert reasons.count("answer is not JSON") == len(reasons) - 4
    assert max(llm.paid.values()) == 1
    again = in_batches(tmp_path, llm, out="again")
    assert {found[key] for key in found if found[key] != again[key]} == {("failed", "server error 500")}  # not paid
    assert max(llm.paid.values()) == 1
    llm.answer = sensible
    assert all(isinstance(o, str) for o in in_batches(tmp_path, llm, out="retried", retry_failed=True).values())


def test_read_results_skips_invalid_lines():
    bodies = [{"choices": [{"message": {"content": text}}]} for text in (sensible("a red ball"), "{}")]
    one, two = ({"custom_id": "x", "response": {"status_code": 200, "body": body}} for body in bodies)
    content = "\n".join([json.dumps(one), "", "[", json.dumps(two), json.dumps({"custom_id": 3}), "null"]).encode()
    replies = list(read_results(content + b"\n\xff", str))
    assert [name for name, _ in replies] == ["x", "x"]
    assert replies[0][1].reason == ""
    for status, paid in ((500, "no"), (400, "no"), (408, "maybe"), (502, "maybe"), (522, "maybe")):
        line = {"custom_id": "x", "response": {"status_code": status, "body": {}}}
        assert next(read_results(json.dumps(line).encode(), str))[1].paid == paid
    odd = [{"custom_id": "x"}, {"custom_id": "x", "response": {"status_code": "?"}}]
    for entry in odd:
        assert next(read_results(json.dumps(entry).encode(), str))[1].paid == "maybe"


@pytest.mark.parametrize("status", [400, 422])
def test_rewrite_adapts_form_of_requests_by_first_batches(tmp_path, llm, status):
    """Every request of the first two batches is rejected, which costs nothing; the others are accepted."""
    make_store(tmp_path / "in", captions(20))
    llm.reject = lambda body: (
        (status, "json_schema is not supported") if body["response_format"]["type"] == "json_schema" else None
    )
    found = in_batches(tmp_path, llm)
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert set(llm.paid.values()) == {1}
    assert {line["body"]["response_format"]["type"] for line in requests(llm, list(llm.batches)[-1])} == {"json_object"}


@pytest.mark.parametrize(("status", "text"), [(404, "model m does not exist"), (400, "no room"), (500, "sorry")])
def test_rewrite_reports_batch_whose_requests_all_fail(tmp_path, llm, monkeypatch, status, text):
    monkeypatch.setattr(batch, "TRIAL_REQUESTS", 6)
    make_store(tmp_path / "in", captions(30))
    llm.reject = lambda _: (status, f"{text}\x1b[2J")
    with pytest.raises(UserError, match=rf"all 6 requests of batch batch_0 failed, .*{status} .*{text}") as error:
        in_batches(tmp_path, llm)
    assert "\x1b" not in str(error.value)
    assert len(llm.batches) == 1
    llm.reject = None
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert set(llm.paid.values()) == {1}


def test_read_results_reads_error_in_successful_response():
    line = {"custom_id": "x", "response": {"status_code": 200, "body": {"error": {"code": 429, "message": "busy"}}}}
    ((_, reply),) = read_results(json.dumps(line).encode(), str)
    assert (reply.reason, reply.paid) == ("server error 429", "no")
    line["response"]["body"] = {"error": "?"}
    ((_, reply),) = read_results(json.dumps(line).encode(), str)
    assert (reply.reason, reply.paid) == ("server error without a code", "maybe")


def test_rewrite_stops_after_batch_without_usable_answer(tmp_path, llm, monkeypatch):
    monkeypatch.setattr(batch, "TRIAL_REQUESTS", 6)
    make_store(tmp_path / "in", captions(30))
    llm.answer = lambda _: "I would love to help!"
    with pytest.raises(UserError, match=r"all 6 answers of batch batch_0 of m .*'I would love to help!'"):
        in_batches(tmp_path, llm)
    assert sum(llm.paid.values()) == 6
    llm.answer = sensible
    found = in_batches(tmp_path, llm, retry_rejected=True)
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert [len(requests(llm, name)) for name in llm.batches] == [6, 6, 8, 8, 8]  # the second is a trial again


def test_rewrite_stops_at_cancelled_or_fully_expired_batch(tmp_path, llm):
    make_store(tmp_path / "in", captions(8))
    llm.batch_plan = [{"status": "expired", "expired": 1.0}]
    with pytest.raises(UserError, match="was expired with 0 answers"):
        in_batches(tmp_path, llm)
    llm.batch_plan = [{"status": "cancelled", "expired": 0.5}]
    with pytest.raises(UserError, match="was cancelled with 4 answers"):
        in_batches(tmp_path, llm)
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert set(llm.paid.values()) == {1}


def test_rewrite_waits_when_batch_queue_is_full(tmp_path, llm):
    make_store(tmp_path / "in", captions(24))
    llm.batch_plan = [{}, {"status": "failed", "error": "token_limit_exceeded"}]
    llm.batch_seconds = 0.1
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert set(llm.paid.values()) == {1}
    make_store(tmp_path / "b" / "in", captions(8))
    llm.batch_plan = [{"status": "failed", "error": "token_limit_exceeded"}]
    with pytest.raises(UserError, match=r"was rejected \(no room\).*--requests_per_batch"):
        in_batches(tmp_path / "b", llm)
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path / "b", llm).values())


def test_rewrite_finds_batch_with_unconfirmed_creation(tmp_path, llm):
    make_store(tmp_path / "in", captions(20))
    llm.create_faults = ["lost", "empty", 500]
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert len(llm.batches) == 3
    assert set(llm.paid.values()) == {1}


def test_rewrite_limits_cost_of_batches(tmp_path, llm):
    make_store(tmp_path / "in", captions(60))
    (tmp_path / "prices.toml").write_text(PRICES)
    options = {"requests_per_batch": 50, "prices": tmp_path / "prices.toml"}
    price = (600 * 1.25 + 30 * 5) / 1e6
    with pytest.raises(UserError, match=r"--max_cost .* reached"):
        in_batches(tmp_path, llm, max_cost=40 * price, **options)
    assert 30 <= sum(llm.paid.values()) <= 40
    in_batches(tmp_path, llm, max_cost=1.0, **options)
    assert set(llm.paid.values()) == {1}


def test_rewrite_requires_batch_prices_for_batches(tmp_path, llm, capsys):
    make_store(tmp_path / "in", captions(2))
    prices = tmp_path / "prices.toml"
    prices.write_text("\n".join(line for line in PRICES.splitlines() if not line.startswith("batch_")))
    with pytest.raises(UserError, match="no batch prices for m"):
        in_batches(tmp_path, llm, prices=prices)
    rewrite(tmp_path / "in", tmp_path / "out", method="llm", model="m", prices=prices, estimate=True)
    printed = capsys.readouterr().out
    assert "individual calls" in printed
    assert "batches" not in printed
    prices.write_text(PRICES.replace("batch_output = 5.0\n", ""))
    with pytest.raises(UserError, match="needs a number batch_output"):
        in_batches(tmp_path, llm, prices=prices)


def test_rewrite_collects_pending_batch_first(tmp_path, llm, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    llm.batch_seconds = 3600
    with monkeypatch.context() as patch:
        patch.setattr(batch, "sleep", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            in_batches(tmp_path, llm)
    with pytest.raises(UserError, match="a batch is pending"):
        run(tmp_path, llm)
    next(iter(llm.batches.values()))["ready"] = llm.batch_seconds = 0
    make_store(tmp_path / "b" / "in", captions(12))  # another store on the same ledger
    found = in_batches(tmp_path / "b", llm, ledger=tmp_path / "rewrites.sqlite")
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert set(llm.paid.values()) == {1}


def test_rewrite_sends_recorded_batch_that_was_not_sent(tmp_path, llm, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    with monkeypatch.context() as patch:
        patch.setattr(batch.BatchRunner, "_send_free", lambda *_: _interrupt(None))
        with pytest.raises(KeyboardInterrupt):
            in_batches(tmp_path, llm)
    assert ledger_rows(tmp_path / "rewrites.sqlite", "SELECT state, file_id FROM batches") == [("pending", None)]
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert len(llm.batches) == 1


def test_rewrite_requires_server_of_pending_batch(tmp_path, llm, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    llm.create_faults = ["lost"] + [500] * 9
    with monkeypatch.context() as patch:
        patch.setattr(batch.BatchRunner, "_find", lambda *_: None)
        patch.setattr(batch, "SETTLE_SECONDS", 0)
        with pytest.raises(UserError, match="batch submission failed"):
            in_batches(tmp_path, llm)
    with serving() as other, pytest.raises(UserError, match="Collect it with that --base_url"):
        in_batches(tmp_path, other)
    llm.create_faults.clear()
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, llm).values())
    assert set(llm.paid.values()) == {1}
    states = ledger_rows(tmp_path / "rewrites.sqlite", "SELECT DISTINCT state FROM batches")
    assert states == [("collected",)]


def _interrupt(_):
    raise KeyboardInterrupt
