"""Rewriting by the Batch API against a local server, with all that can go wrong between sending and collecting."""

import json

import pytest

from babyvlm.curation.rewrite.llm import batch, prompt
from babyvlm.curation.rewrite.llm.batch_results import read_results
from babyvlm.curation.rewrite.stage import rewrite
from babyvlm.errors import UserError
from support.fake_llm import sensible, serving
from support.rewriting import PRICES, captions, ledger_rows, make_store, quick, run


@pytest.fixture(autouse=True)
def _own_world(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    quick()


@pytest.fixture
def mind():
    with serving() as mind:
        yield mind


def in_batches(folder, mind, **options):
    return run(folder, mind, batch=True, **{"requests_per_batch": 8} | options)


def requests(mind, name):
    return [json.loads(line) for line in mind.files[mind.batches[name]["input_file_id"]].decode().splitlines()]


def test_batches_of_the_size_asked_for(tmp_path, mind):
    make_store(tmp_path / "in", [*captions(20), "a red ball"])
    found = in_batches(tmp_path, mind)
    assert found == run(tmp_path, mind, out="one_by_one", ledger=tmp_path / "l")
    assert [len(requests(mind, name)) for name in mind.batches] == [8, 8, 4]
    line = requests(mind, "batch_0")[0]
    assert line["custom_id"] == prompt.digest("a red ball")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == prompt.request("m", "a red ball")
    assert set(mind.paid.values()) == {2}
    before = len(mind.batches)
    assert in_batches(tmp_path, mind, out="again") == found
    assert len(mind.batches) == before


def test_no_file_is_larger_than_allowed(tmp_path, mind, monkeypatch):
    make_store(tmp_path / "in", captions(7))
    monkeypatch.setattr(batch, "MAX_BYTES", 2 * len(json.dumps(prompt.request("m", "a yellow ball"))) + 400)
    in_batches(tmp_path, mind)
    assert max(len(mind.files[b["input_file_id"]]) for b in mind.batches.values()) <= batch.MAX_BYTES
    assert [len(requests(mind, name)) for name in mind.batches] == [2, 2, 2, 1]
    assert set(mind.paid.values()) == {1}


def test_what_expired_is_sent_again_and_what_did_not_is_not(tmp_path, mind):
    make_store(tmp_path / "in", captions(16))
    mind.batch_plan = [{"status": "expired", "expired": 0.5}, {"status": "expired", "expired": 0.25}]
    found = in_batches(tmp_path, mind)
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert set(mind.paid.values()) == {1}
    assert sum(len(requests(mind, name)) for name in mind.batches) == 16 + 4 + 2


def test_double_cut_missing_and_failing_lines(tmp_path, mind):
    make_store(tmp_path / "in", captions(16))
    mind.batch_plan = [{"twice": 5, "cut": 1, "missing": 2, "failing": 2}]
    mind.answer = lambda c: sensible(c) if c != "a blue cup" else '{"relevant": tr'
    found = in_batches(tmp_path, mind, requests_per_batch=16)
    reasons = sorted(outcome[1] for outcome in found.values() if not isinstance(outcome, str))
    # The cut line is a failing one. The double lines come late, with another answer that does not count.
    assert reasons[-1] == "server error 500"
    assert reasons.count("no reply in the batch") in (2, 3)
    assert len(reasons) in (4, 5)
    assert reasons.count("answer is not JSON") == len(reasons) - 4
    assert max(mind.paid.values()) == 1
    again = in_batches(tmp_path, mind, out="again")
    assert {found[key] for key in found if found[key] != again[key]} == {("failed", "server error 500")}  # not paid
    assert max(mind.paid.values()) == 1
    mind.answer = sensible
    assert all(isinstance(o, str) for o in in_batches(tmp_path, mind, out="mended", retry_failed=True).values())


def test_the_first_line_of_a_request_counts():
    bodies = [{"choices": [{"message": {"content": text}}]} for text in (sensible("a red ball"), "{}")]
    one, two = ({"custom_id": "x", "response": {"status_code": 200, "body": body}} for body in bodies)
    content = "\n".join([json.dumps(one), "", "[", json.dumps(two), json.dumps({"custom_id": 3}), "null"]).encode()
    replies = list(read_results(content + b"\n\xff", str))
    assert [name for name, _ in replies] == ["x", "x"]
    assert replies[0][1].reason == ""
    odd = [{"custom_id": "x"}, {"custom_id": "x", "response": {"status_code": "?"}}]
    for entry in odd:
        assert next(read_results(json.dumps(entry).encode(), str))[1].paid == "maybe"


def test_a_batch_that_expires_whole_or_is_cancelled_stops_the_run(tmp_path, mind):
    make_store(tmp_path / "in", captions(8))
    mind.batch_plan = [{"status": "expired", "expired": 1.0}]
    with pytest.raises(UserError, match="was expired; 0 answers"):
        in_batches(tmp_path, mind)
    mind.batch_plan = [{"status": "cancelled", "expired": 0.5}]
    with pytest.raises(UserError, match="was cancelled; 4 answers"):
        in_batches(tmp_path, mind)
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, mind).values())
    assert set(mind.paid.values()) == {1}


def test_a_full_queue_waits_for_the_others(tmp_path, mind):
    make_store(tmp_path / "in", captions(24))
    mind.batch_plan = [{}, {"status": "failed", "error": "token_limit_exceeded"}]
    mind.batch_seconds = 0.1
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, mind).values())
    assert set(mind.paid.values()) == {1}
    make_store(tmp_path / "b" / "in", captions(8))
    mind.batch_plan = [{"status": "failed", "error": "token_limit_exceeded"}]
    with pytest.raises(UserError, match=r"was refused \(no room\).*--requests_per_batch"):
        in_batches(tmp_path / "b", mind)
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path / "b", mind).values())


def test_a_batch_whose_creation_was_not_confirmed_is_found(tmp_path, mind):
    make_store(tmp_path / "in", captions(20))
    mind.create_faults = ["lost", "empty", 500]
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, mind).values())
    assert len(mind.batches) == 3
    assert set(mind.paid.values()) == {1}


def test_the_cost_of_batches_is_limited(tmp_path, mind):
    make_store(tmp_path / "in", captions(60))
    (tmp_path / "prices.toml").write_text(PRICES)
    options = {"requests_per_batch": 50, "prices": tmp_path / "prices.toml"}
    price = (600 * 1.25 + 30 * 5) / 1e6
    with pytest.raises(UserError, match=r"--max_cost .* reached"):
        in_batches(tmp_path, mind, max_cost=40 * price, **options)
    assert 30 <= sum(mind.paid.values()) <= 40
    in_batches(tmp_path, mind, max_cost=1.0, **options)
    assert set(mind.paid.values()) == {1}


def test_a_price_list_without_batches(tmp_path, mind, capsys):
    make_store(tmp_path / "in", captions(2))
    prices = tmp_path / "prices.toml"
    prices.write_text("\n".join(line for line in PRICES.splitlines() if not line.startswith("batch_")))
    with pytest.raises(UserError, match="has no price of batches for m"):
        in_batches(tmp_path, mind, prices=prices)
    rewrite(tmp_path / "in", tmp_path / "out", method="llm", model="m", prices=prices, estimate=True)
    said = capsys.readouterr().out
    assert "one by one" in said
    assert "in batches" not in said
    prices.write_text(PRICES.replace("batch_output = 5.0\n", ""))
    with pytest.raises(UserError, match="must hold batch_output"):
        in_batches(tmp_path, mind, prices=prices)


def test_a_pending_batch_is_collected_before_anything_else(tmp_path, mind, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    mind.batch_seconds = 3600
    with monkeypatch.context() as patch:
        patch.setattr(batch, "sleep", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            in_batches(tmp_path, mind)
    with pytest.raises(UserError, match="a batch is still to be collected"):
        run(tmp_path, mind)
    next(iter(mind.batches.values()))["ready"] = mind.batch_seconds = 0
    make_store(tmp_path / "b" / "in", captions(12))  # another store on the same ledger
    found = in_batches(tmp_path / "b", mind, ledger=tmp_path / "rewrites.sqlite")
    assert all(isinstance(outcome, str) for outcome in found.values())
    assert set(mind.paid.values()) == {1}


def test_a_batch_that_was_written_down_and_not_sent_is_sent(tmp_path, mind, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    with monkeypatch.context() as patch:
        patch.setattr(batch.Batches, "_try", lambda *_: _interrupt(None))
        with pytest.raises(KeyboardInterrupt):
            in_batches(tmp_path, mind)
    assert ledger_rows(tmp_path / "rewrites.sqlite", "SELECT state, file_id FROM batches") == [("pending", None)]
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, mind).values())
    assert len(mind.batches) == 1


def test_a_batch_sent_elsewhere_is_not_forgotten(tmp_path, mind, monkeypatch):
    make_store(tmp_path / "in", captions(8))
    mind.create_faults = ["lost"] + [500] * 9
    with monkeypatch.context() as patch:
        patch.setattr(batch.Batches, "_find", lambda *_: None)
        patch.setattr(batch, "SETTLE_SECONDS", 0)
        with pytest.raises(UserError, match="takes no batch"):
            in_batches(tmp_path, mind)
    with serving() as other, pytest.raises(UserError, match="collect it with that --base_url"):
        in_batches(tmp_path, other)
    mind.create_faults.clear()
    assert all(isinstance(outcome, str) for outcome in in_batches(tmp_path, mind).values())
    assert set(mind.paid.values()) == {1}
    states = ledger_rows(tmp_path / "rewrites.sqlite", "SELECT DISTINCT state FROM batches")
    assert states == [("collected",)]


def _interrupt(_):
    raise KeyboardInterrupt
