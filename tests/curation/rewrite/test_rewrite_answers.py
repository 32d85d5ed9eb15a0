"""Answers in the forms that real servers and models send, and servers that support only some fields of a request."""

import base64
import gzip
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import closing
from types import SimpleNamespace

import httpx2
import pytest
import tenacity

from babyvlm.curation.rewrite.llm import client, responses
from babyvlm.curation.rewrite.llm.client import Server
from babyvlm.curation.rewrite.llm.prompt import REWRITE_PROMPT, Answer
from babyvlm.curation.rewrite.llm.replies import decode_body, error_in_body, find_answer, read_reply
from babyvlm.errors import UserError
from babyvlm.io.limits import MIB
from support.fake_llm import chat, sensible, serving
from support.rewriting import PRICES, captions, ledger_rows, make_store, run

GOOD = json.dumps({"relevant": True, "utterance": "look a red ball", "reason": "suitable"})
OTHER = GOOD.replace("red", "blue")

pytestmark = pytest.mark.usefixtures("short_waits")


def message(**fields):
    return {"choices": [{"message": {"content": None} | fields, "finish_reason": "stop"}]}


def text_part(text, kind="text"):
    return {"type": kind, "text": text}


READABLE = {
    "plain": message(content=GOOD),
    "fenced": message(content=f"```json\n{GOOD}\n```"),
    "fenced with prose": message(content=f"Here you go:\n\n```\n{GOOD}\n```\nEnjoy!"),
    "thinking": message(content=f'<think>\nMaybe {{"utterance": 1}} or {OTHER}?\n</think>\n\n{GOOD}'),
    "other tags": message(content=f"<thinking>{OTHER}</thinking>{GOOD}"),
    "Magistral's tags": message(content=f"[THINK]{OTHER}[/THINK]{GOOD}"),
    "thinking without start": message(content=f"The caption names a ball.</think>{GOOD}"),
    "reasoning content": message(reasoning_content=GOOD),
    "empty content with reasoning": message(content=" \n", reasoning=f"So the answer is {GOOD}"),
    "parts": message(content=[{"type": "thinking", "thinking": [text_part(OTHER)]}, text_part(GOOD)]),
    "split parts": message(content=[text_part(GOOD[:20]), text_part(GOOD[20:])]),
    "output text": message(content=[text_part(GOOD, "output_text")]),
    "byte order mark": message(content="\ufeff" + GOOD),
    "trailing prose": message(content=f"{GOOD}\n\nLet me know if you need anything else!"),
    "twice the same": message(content=f"{GOOD}\n{GOOD}"),
    "tool call": message(tool_calls=[{"type": "function", "function": {"name": "rewrite", "arguments": GOOD}}]),
}
UNREADABLE = {
    "two answers": (message(content=f"{GOOD} or {OTHER}"), "several answers in one reply"),
    "answer and example": (message(content=f'{{"a": 1}} {GOOD}'), "several answers in one reply"),
    "only in thinking": (message(content=f"<think>{GOOD}"), "answer is not JSON"),
    "inside a broken object": (message(content=f'{{"answer": {GOOD}, '), "answer is not JSON"),
    "text": (message(content="a red ball"), "answer is not JSON"),
    "reasoning alone": (message(content="", reasoning="I should name a ball."), "answer is not JSON"),
    "extra field": (message(content=GOOD[:-1] + ', "note": "x"}'), "answer violates the schema"),
    "string for a boolean": (message(content=GOOD.replace("true", '"true"')), "answer violates the schema"),
    "wrapped": (message(content=f'{{"answer": {GOOD}}}'), "answer violates the schema"),
    "lone surrogate": (message(content=GOOD.replace("red", "\\ud800")), "answer violates the schema"),
    "only in other tags": (message(content=f"<reasoning>{GOOD}"), "answer is not JSON"),
    "error of the provider": (
        {"choices": [{"message": {"content": GOOD}, "finish_reason": "error"}]},
        "the server stopped with an error",
    ),
    "deep": (message(content='{"a":' * 100_000), "answer is not JSON"),
    "parts without text": (message(content=[{"type": "image_url"}, 3, text_part(None)]), "reply without content"),
    "two tool calls": (message(tool_calls=[{"function": {"arguments": GOOD}}] * 2), "reply without content"),
}


@pytest.mark.parametrize("body", READABLE.values(), ids=READABLE)
def test_read_reply_finds_unambiguous_answer(body):
    reply = read_reply(body, str)
    assert (reply.reason, json.loads(reply.content)) == ("", json.loads(GOOD))


@pytest.mark.parametrize(("body", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_read_reply_rejects_ambiguous_or_invalid_answer(body, reason):
    reply = read_reply(body, str)
    assert (reply.reason, reply.paid) == (reason, "yes")
    (reply.content or "").encode()  # can be stored


def test_rewrite_accepts_reason_in_other_words(tmp_path, llm):
    make_store(tmp_path / "in", captions(4))
    irrelevant = {"relevant": False, "utterance": None, "reason": "not for a baby"}
    answers = (json.loads(sensible(captions(4)[1])) | {"reason": "for a baby"}, irrelevant)
    for caption, answer in zip(captions(4)[1:3], answers, strict=True):
        llm.faults[caption] = [lambda _, answer=answer: chat(json.dumps(answer))]
    found = run(tmp_path, llm)
    assert isinstance(found["w/1"], str)
    assert found["w/2"] == ("dropped", "other reason")


def test_find_answer_returns_stored_form():
    found, reason = find_answer(f"{GOOD} That's it.", Answer)
    assert (Answer.model_validate_json(found).utterance, reason) == ("look a red ball", "")


@pytest.mark.parametrize("text", [' {"a": 1}', '\ufeff{"a": 1}', '\n\n\n{"a": 1}', ': PROCESSING\n\n: x\n{"a":\n1}'])
def test_decode_body_skips_what_keeps_a_connection_alive(text):
    assert decode_body(text) == {"a": 1}


def events(*deltas, finish="stop", end=True, usage=None):
    lines = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    lines += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}] if finish else []
    lines += [{"choices": [], "usage": usage}] if usage else []
    texts = [f"data: {json.dumps(line)}" for line in lines] + ["data: [DONE]"] * end
    return "\n\n".join([": keep-alive", *texts, ""])


def test_decode_body_joins_events_of_a_stream():
    usage = {"prompt_tokens": 600, "completion_tokens": 30}
    parts = [{"role": "assistant", "content": ""}, *({"content": GOOD[n : n + 7]} for n in range(0, len(GOOD), 7))]
    for text in (events(*parts, usage=usage), "event: message\n" + events(*parts, usage=usage, end=False)):
        reply = read_reply(decode_body(text.removeprefix(": keep-alive\n\n")), str)
        assert (reply.content, reply.reason, reply.input_tokens, reply.output_tokens) == (GOOD, "", 600, 30)
    assert read_reply(decode_body(events({"reasoning_content": GOOD})), str).reason == ""
    assert read_reply(decode_body(events({"content": GOOD[:9]}, finish="length")), str).reason == "answer truncated"
    assert read_reply(decode_body(f"data: {json.dumps(message(content=GOOD))}\n\n"), str).reason == ""
    assert error_in_body(decode_body('data: {"error": {"code": 429}}\n\n'))[0] == 429
    for torn in (events({"content": GOOD}, finish=None, end=False), events({"content": GOOD})[:-40]):
        with pytest.raises(ValueError, match=r"stream has no end|delimiter|Unterminated|Expecting"):
            decode_body(torn)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "busy", "code": 429}, "choices": None}, 429),
        ({"error": {"message": "busy", "code": "503"}}, 503),
        ({"error": {"message": "no such model", "code": "model_not_found", "type": "invalid_request_error"}}, 404),
        ({"error": {"message": "x", "type": "insufficient_quota", "code": None}}, 402),
        ({"error": {"message": "x", "status": 502}, "choices": []}, 502),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, None),
        ({"error": {"code": "unheard_of"}}, None),
        ({"error": {"code": True}}, None),
    ],
)
def test_error_in_body_returns_status(body, status):
    assert error_in_body(body)[0] == status


def test_error_in_body_ignores_answers():
    assert error_in_body(chat(GOOD)) is error_in_body(chat(GOOD) | {"error": None}) is error_in_body([]) is None
    assert error_in_body({"choices": []}) is None


def test_reply_without_choices_keeps_the_words_of_the_server():
    body = {"object": "error", "message": "The model is loading", "type": "ServiceUnavailable", "code": 503}
    assert error_in_body(body)[0] == 503
    reply = read_reply(
        {"success": False, "detail": "The key sk-1 is unknown"}, lambda text: text.replace("sk-1", "[key]")
    )
    assert (reply.reason, reply.content) == (
        "reply without content",
        '{"success": false, "detail": "The key [key] is unknown"}',
    )


def error_body(code):
    return lambda _: {"id": None, "choices": None, "error": {"message": "Provider returned error", "code": code}}


def test_rewrite_handles_errors_in_successful_responses_by_their_code(tmp_path, llm):
    texts = captions(6)
    make_store(tmp_path / "in", texts)
    for text, faults in zip(
        texts[1:], ([429, 503], ["rate_limit_exceeded"], [502], [400], ["unheard_of"]), strict=True
    ):
        llm.faults[text] = [error_body(code) for code in faults]
    found = run(tmp_path, llm)
    assert all(isinstance(found[f"w/{i}"], str) for i in (0, 1, 2))  # repeated until they succeed
    assert found["w/3"] == ("failed", "server error 502")
    assert found["w/4"] == ("failed", "server error 400")
    assert found["w/5"] == ("failed", "server error without a code")
    rows = ledger_rows(tmp_path / "rewrites.sqlite", "SELECT reason, paid FROM calls WHERE state = 'failed'")
    assert sorted(rows) == [
        ("server error 400", "no"),
        ("server error 502", "maybe"),
        ("server error without a code", "maybe"),
    ]
    llm.faults["a red cup"] = []
    make_store(tmp_path / "b" / "in", captions(12))
    llm.faults[captions(12)[8]] = [error_body("invalid_api_key")]
    with pytest.raises(UserError, match=r"server error 401 .*Provider returned error"):
        run(tmp_path / "b", llm)


FORMS = {
    "no json_schema": (lambda b: b.get("response_format", {}).get("type") == "json_schema", "json_schema is unknown"),
    "no response_format": (lambda b: "response_format" in b, "'response_format.type' must be 'text'"),
    "max_completion_tokens": (lambda b: "max_tokens" in b, "'max_tokens' is not supported with this model"),
    "no temperature": (lambda b: "temperature" in b, "'temperature' does not support 0 with this model"),
    "other form of error": (
        lambda b: "response_format" in b,
        b'{"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}',
    ),
    "all": (
        lambda b: {"response_format", "max_tokens", "temperature"} & b.keys(),
        "Unexpected fields: response_format, max_tokens, temperature",
    ),
}


@pytest.mark.parametrize(("is_rejected", "text"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("status", [400, 422])
def test_rewrite_adapts_request_once_to_server(tmp_path, llm, is_rejected, text, status):
    make_store(tmp_path / "in", captions(20))
    llm.reject = lambda body: (status, text) if is_rejected(body) else None
    assert all(isinstance(outcome, str) for outcome in run(tmp_path, llm).values())
    assert llm.statuses[200] == 20
    assert 1 <= llm.statuses[status] <= 4  # of the first call only
    assert set(llm.paid.values()) == {1}
    body = llm.bodies[-1]
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 120


def test_rewrite_reports_rejection_that_it_cannot_adapt_to(tmp_path, llm):
    make_store(tmp_path / "in", captions(20))
    llm.reject = lambda _: (422, "Unexpected fields in the request: {'response_format'}")
    with pytest.raises(UserError, match=r"5 calls in a row failed, .*server error 422 .*Unexpected fields"):
        run(tmp_path, llm)
    assert llm.statuses[422] <= 8
    llm.reject = None
    run(tmp_path, llm, out="a", response_format="json_object", token_parameter="max_completion_tokens")
    assert llm.bodies[-1]["response_format"] == {"type": "json_object"}
    assert llm.bodies[-1]["max_completion_tokens"] == 120
    run(tmp_path, llm, out="b", model="m2", response_format="none", max_output_tokens=4000, thinking=False)
    assert not {"response_format", "reasoning_effort", "max_completion_tokens"} & llm.bodies[-1].keys()
    assert llm.bodies[-1]["max_tokens"] == 4000
    assert llm.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    before = len(llm.bodies)
    run(tmp_path, llm, out="c", model="m2", reasoning_effort="low")  # other answers than without
    assert len(llm.bodies) == before + 20
    assert llm.bodies[-1]["reasoning_effort"] == "low"
    run(tmp_path, llm, out="d", model="m2", reasoning_effort="low", max_output_tokens=500)  # the same answers
    assert len(llm.bodies) == before + 20
    for options in ({"max_output_tokens": 0}, {"reasoning_effort": "a b"}):
        with pytest.raises(UserError, match="--" + next(iter(options))):
            run(tmp_path, llm, out="e", **options)


@pytest.mark.parametrize(
    ("reply", "reason", "shown", "advice"),
    [
        (lambda _: chat("Sure! A ball.\x1b[31m"), "answer is not JSON", "Sure! A ball.", "--response_format"),
        (lambda _: chat("", "length"), "answer truncated", "It contains no text", "--max_output_tokens"),
        (lambda _: chat(GOOD[:-1] + ', "note": 1}'), "answer violates the schema", "note", "follows the schema"),
        (lambda _: chat(None, refusal="no"), "the model refused", "no text", "Use another model"),
    ],
)
def test_rewrite_stops_after_first_unusable_answers(tmp_path, llm, reply, reason, shown, advice):
    (tmp_path / "prices.toml").write_text(PRICES)
    make_store(tmp_path / "in", captions(60))
    for text in captions(60):
        llm.faults[text] = [reply]
    with pytest.raises(UserError) as error:
        run(tmp_path, llm, prices=tmp_path / "prices.toml")
    text = str(error.value)
    for part in (f"the first 5 answers of m cannot be used ({reason})", shown, advice, "--retry_rejected true"):
        assert part in text
    assert "3,000 input" in text or llm.faults is None
    assert "USD" in text
    assert not set(text) & {"\n", "\x1b"}
    assert sum(llm.paid.values()) == 5
    llm.faults.clear()
    found = run(tmp_path, llm)
    assert sum(not isinstance(outcome, str) for outcome in found.values()) == 5  # not requested again by itself
    again = run(tmp_path, llm, out="again", retry_rejected=True)
    assert all(isinstance(outcome, str) for outcome in again.values())
    assert sorted(llm.paid.values()) == [1] * 55 + [2] * 5


def test_rewrite_stops_after_many_unusable_answers_in_a_row_later(tmp_path, llm):
    make_store(tmp_path / "in", captions(120))
    llm.answer = lambda caption: sensible(caption) if caption in captions(10) else "no more"
    with pytest.raises(UserError, match="50 answers in a row of m cannot be used"):
        run(tmp_path, llm)
    # 8 are in flight at the end; a good answer that is recorded after bad ones starts the count again.
    assert 60 <= sum(llm.paid.values()) <= 76


def test_rewrite_requests_rejected_answers_again_but_not_lost_ones(tmp_path, llm):
    texts = captions(4)
    make_store(tmp_path / "in", texts)
    llm.faults[texts[1]], llm.faults[texts[2]] = ["drop"], [lambda _: chat("{}")]
    llm.answer = lambda caption: sensible(caption if caption != texts[3] else "a big dog")
    found = run(tmp_path, llm)
    assert [found[f"w/{i}"][1] for i in (1, 2, 3)] == [
        "connection lost",
        "answer violates the schema",
        "not supported by the caption",
    ]
    llm.answer = sensible
    again = run(tmp_path, llm, out="again", retry_rejected=True)
    assert {key: outcome for key, outcome in again.items() if not isinstance(outcome, str)} == {"w/1": found["w/1"]}
    assert [llm.paid[text] for text in texts] == [1, 1, 2, 2]
    with pytest.raises(UserError, match=r"already complete, without 1 failed"):
        run(tmp_path, llm, out="again", retry_rejected=True)


def test_rewrite_keeps_answers_of_servers_apart(tmp_path, llm):
    """Answers of a server at a wrong URL do not replace those of the right one."""
    make_store(tmp_path / "in", captions(12))
    with serving() as other:
        other.answer = lambda caption: sensible("a dog and a cat" if caption == "a red ball" else caption)
        first = run(tmp_path, other)
        assert run(tmp_path, llm, out="second") != first
        assert sum(llm.paid.values()) == 12
        assert run(tmp_path, other, out="third", base_url=other.base_url + "/") == first
        assert sum(other.paid.values()) == 12


def test_rewrite_stops_at_web_page_and_unknown_error(tmp_path, llm):
    make_store(tmp_path / "in", captions(12))
    llm.raw = b"<!doctype html><html><body>Sign in</body></html>"
    with pytest.raises(UserError, match=r"a web page instead of a reply .*Sign in.*--base_url"):
        run(tmp_path, llm)
    assert len(llm.bodies) == 1
    llm.raw = b'{"error": "Unexpected endpoint or method. (POST /chat/completions)"}'
    with pytest.raises(UserError, match=r"server error without a code .*Unexpected endpoint"):
        run(tmp_path, llm)
    assert len(llm.bodies) == 2


def test_rewrite_shows_error_that_is_not_json(tmp_path, llm):
    make_store(tmp_path / "in", captions(3))
    llm.reject = lambda _: (403, b"Your network blocks\n this site")
    with pytest.raises(UserError, match=r"server error 403 .*Your network blocks this site.*Check --model m"):
        run(tmp_path, llm)


class Waits(threading.local):
    """A clock of each thread, on which only waiting takes time."""

    seconds = 0.0


@pytest.mark.parametrize("status", [500, 404, 400])
def test_rewrite_reports_unknown_model_within_30_seconds(tmp_path, llm, monkeypatch, capsys, status):
    """With the waits of a real run, which the clock counts instead of waiting."""
    clock, waited = Waits(), []

    def wait(seconds):
        clock.seconds += seconds
        waited.append(clock.seconds)

    monkeypatch.setattr(client, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(client, "MAX_WAIT", 60.0)
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 8)
    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda event: wait)
    make_store(tmp_path / "in", captions(60))
    llm.reject = lambda _: (status, "model 'no/such-model' is not\x1b[2J loaded")
    with pytest.raises(UserError, match=rf"server error {status} .*model 'no/such-model' is not") as error:
        run(tmp_path, llm)
    assert max(waited, default=0) < 30
    assert bool(waited) == (status == 500)  # the server may still be loading the model
    assert "\x1b" not in str(error.value) + capsys.readouterr().out


def test_server_masks_key_in_every_form():
    key = "sk-canary-4f1d2c77"
    server = Server("http://127.0.0.1:9/v1", key, 1)
    forms = [
        key,
        key.upper(),
        key.replace("-", "\\u002d"),
        key.replace("s", "\\u0073"),
        key.replace("-", "%2D"),
        "".join(f"\\u{ord(letter):04x}" for letter in key),
        "".join(f"\\\\u{ord(letter):04X}" for letter in key),
    ]
    for form in forms:
        assert server.scrub(f"x {form} y") == "x [key] y", form
    for before in ("", "a", "ab", "Bearer "):
        masked = server.scrub(base64.b64encode(f"{before}{key} and more".encode()).decode())
        assert "[key]" in masked
    assert server.scrub("a red ball in skaters canary") == "a red ball in skaters canary"


def test_rewrite_masks_key_in_ledger(tmp_path, llm, monkeypatch):
    key = "sk-canary-4f1d2c77"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
    make_store(tmp_path / "in", captions(4))
    llm.answer = lambda c: GOOD.replace("look", {"a blue ball": key, "a green ball": escaped}.get(c, "look"))
    llm.faults["a yellow ball"] = [lambda _: chat(f"Your key is {escaped}")]
    run(tmp_path, llm)
    with closing(sqlite3.connect(tmp_path / "rewrites.sqlite")) as db:
        stored = "\n".join(str(row) for row in db.execute("SELECT * FROM calls"))
    assert stored.count("[key]") == 3
    assert "canary" not in stored
    assert escaped[:12] not in stored


SERVE = "import sys; sys.argv = ['transformers', 'serve', '--host', '127.0.0.1', '--port', {port!r}, '--device', 'cpu']"


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """``transformers serve``, offline. Yields its URL and the folder of the models."""
    for name in ("fastapi", "uvicorn", "accelerate"):
        pytest.importorskip(name, reason="transformers serve needs fastapi, uvicorn and accelerate")
    from support.tiny_llama import save_tiny_llama

    folder = tmp_path_factory.mktemp("serve")
    save_tiny_llama(folder / "good", f"```json\n{GOOD}\n```")
    save_tiny_llama(folder / "bad", "I would love to help!")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = SERVE.format(port=port) + "\nfrom transformers.cli.transformers import main; main()"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log, env=env)
    try:
        deadline = time.monotonic() + 200
        while not _is_listening(int(port)):
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.fail((folder / "log").read_text()[-2000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.kill()
        process.wait()


def _is_listening(port):
    with socket.socket() as client_socket:
        return client_socket.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.soak
def test_rewrite_runs_against_transformers_serve(tmp_path, transformers_server, monkeypatch):
    url, folder = transformers_server
    monkeypatch.setattr(client, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(client, "MAX_WAIT", 60.0)
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 8)
    make_store(tmp_path / "in", captions(12))
    server = SimpleNamespace(base_url=url)
    found = run(tmp_path, server, model=str(folder / "good"), timeout=120.0, concurrent_requests=2)
    assert found["w/0"] == "look a red ball"
    assert found["w/11"] == ("failed", "not supported by the caption")  # "a blue cup"
    with pytest.raises(UserError, match=r"the first 5 answers of .*bad cannot be used .*'I would love to help!'"):
        run(tmp_path, server, out="bad", model=str(folder / "bad"), timeout=120.0)
    rows = ledger_rows(tmp_path / "rewrites.sqlite", "SELECT paid, output_tokens, input_tokens FROM calls")
    assert len(rows) == 12 + 5
    assert all(paid == "yes" and 0 < output <= 2 and read > 600 for paid, output, read in rows)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"server error 500 .*Internal Server Error.*--model no/such-model"):
        run(tmp_path, server, out="unknown", model="no/such-model", timeout=120.0)
    assert time.monotonic() - start < 30


LLAMA_CPP = """
import time, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 8192, 1
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
time.sleep(600)
"""


@pytest.fixture
def llama_cpp_server(tmp_path):
    """``llama_cpp_server(answer)``: the URL of llama.cpp's server with a model that gives this answer."""
    for name in ("xllamacpp", "gguf"):
        pytest.importorskip(name, reason="llama.cpp's server needs xllamacpp, and its model needs gguf")
    from support.tiny_gguf import save_tiny_gguf

    started = []

    def start(answer):
        model = tmp_path / f"model-{len(started)}.gguf"
        save_tiny_gguf(model, answer)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with model.with_suffix(".log").open("wb") as log:
            command = [sys.executable, "-c", LLAMA_CPP, str(model), str(port)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        deadline = time.monotonic() + 100
        while not _is_listening(port):
            if time.monotonic() > deadline or started[-1].poll() is not None:
                pytest.fail(model.with_suffix(".log").read_text()[-2000:])
            time.sleep(0.2)
        return SimpleNamespace(base_url=f"http://127.0.0.1:{port}/v1")

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.soak
def test_rewrite_runs_against_llama_cpp(tmp_path, llama_cpp_server):
    """It enforces the schema by a grammar, where that is requested."""
    make_store(tmp_path / "in", captions(12))
    for number, answer in enumerate((GOOD, f"```json\n{GOOD}\n```")):
        server = llama_cpp_server(answer)
        for response_format in ("auto", "json_object", "none"):
            options = {"model": f"{number}-{response_format}", "response_format": response_format}
            found = run(tmp_path, server, out=options["model"], concurrent_requests=2, **options)
            assert found["w/0"] == "look a red ball"
            assert found["w/11"] == ("failed", "not supported by the caption")
    server = llama_cpp_server("I would love to help!")
    with pytest.raises(UserError, match=r"the first 5 answers of bad cannot be used .*'I would love to help!'"):
        run(tmp_path, server, out="bad", model="bad", response_format="none")
    with pytest.raises(UserError, match="no pair is left"):  # the grammar forces the schema, not the content
        run(tmp_path, server, out="forced", model="forced")
    rows = ledger_rows(tmp_path / "rewrites.sqlite", "SELECT paid, reason FROM calls WHERE model = 'forced'")
    assert rows == [("yes", "")] * 12


def complete(llm, body, **headers):
    """Return what a server's answer with these bytes and headers becomes, and the peak of memory that it took."""
    llm.raw, llm.raw_headers = body, headers
    server = Server(llm.base_url, "", 5, max_reply_bytes=MIB)
    tracemalloc.start()
    try:
        reply = server.complete(REWRITE_PROMPT, "m", "a ball", "key")
        return reply, server.last_error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


OVERSIZED = {
    "packed zeros": (gzip.compress(bytes(64 * MIB), 1), {"Content-Encoding": "gzip"}),
    "plain zeros": (bytes(4 * MIB), {}),
    "another packing": (b"x", {"Content-Encoding": "br"}),
    "packed twice": (gzip.compress(gzip.compress(b"{}")), {"Content-Encoding": "gzip, gzip"}),
}


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized_response_is_not_read(llm, name):
    """A megabyte may unpack to a gigabyte."""
    body, headers = OVERSIZED[name]
    reply, error, used = complete(llm, body, **headers)
    assert (reply.reason, reply.paid) == ("reply too large", "maybe")
    assert "response" in error
    assert used < 16 * MIB


def test_packed_response_is_read(llm):
    reply, _, _ = complete(llm, gzip.compress(json.dumps(chat(GOOD)).encode()), **{"Content-Encoding": "gzip"})
    assert (reply.content, reply.reason) == (GOOD, "")


def test_damaged_packing_is_a_lost_reply(llm):
    reply, _, _ = complete(llm, b"no gzip at all", **{"Content-Encoding": "gzip"})
    assert (reply.reason, reply.paid) == ("connection lost", "maybe")


def test_response_that_drips_is_given_up(monkeypatch):
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(responses, "monotonic", lambda: next(clock))
    stream = httpx2.ByteStream(b"x")
    response = httpx2.Response(200, request=httpx2.Request("POST", "http://127.0.0.1/v1/chat"), stream=stream)
    responses.BoundedResponses(MIB, seconds=50)(response)
    with pytest.raises(httpx2.ReadTimeout):
        response.read()


def test_body_of_many_values_is_not_decoded():
    with pytest.raises(ValueError, match="over"):
        decode_body('{"choices": [' + "[]," * 2_000_000 + "[]]}")
