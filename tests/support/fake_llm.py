"""A local server with the part of OpenAI's API that rewriting needs, and with every fault on request.

``paid`` counts the answers that it computed for each caption, whether or not they arrived.
"""

import json
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from babyvlm.curation.rewrite.rules.rewriter import rewrite_caption

USAGE = {"prompt_tokens": 600, "completion_tokens": 30}


def sensible(caption):
    """Return the answer of a good model."""
    utterance = rewrite_caption(caption).utterance
    reason = "suitable" if utterance else "unfamiliar to a child"
    return json.dumps({"relevant": utterance is not None, "utterance": utterance, "reason": reason})


class FakeLLM:
    """State of the server; tests set its attributes."""

    def __init__(self, answer=sensible):
        self.answer = answer
        self.faults = defaultdict(list)  # caption -> faults before it is answered
        self.reject = None  # function of a body: (status, message or bytes) if the server does not accept it
        self.raw = None  # bytes that every call is answered with
        self.raw_headers = {}
        self.seconds = 0.0  # latency of an answer
        self.honors_keys = False
        self.paid, self.statuses = Counter(), Counter()
        self.authorizations, self.bodies, self.arrivals = [], [], []
        self.in_flight = self.max_in_flight = 0
        self.kept = {}
        self.files, self.batches = {}, {}
        self.batch_plan = []  # for each batch in turn: arguments of run_batch
        self.batch_seconds = 0.0
        self.create_faults = []  # for each creation of a batch in turn; "lost" and "empty" create it without confirming
        self.lock = threading.RLock()
        self.base_url = ""

    def complete(self, caption, key):
        """Compute an answer and charge for it, or return the earlier one for a known idempotency key."""
        with self.lock:
            if not (self.honors_keys and key in self.kept):
                self.paid[caption] += 1
                self.kept[key] = chat(self.answer(caption))
            return self.kept[key]

    def create_batch(self, body):
        with self.lock:
            name = f"batch_{len(self.batches)}"
            plan = self.batch_plan.pop(0) if self.batch_plan else {}
            self.batches[name] = {
                "id": name,
                "object": "batch",
                "endpoint": body["endpoint"],
                "completion_window": "24h",
                "input_file_id": body["input_file_id"],
                "metadata": body.get("metadata"),
                "status": "validating",
                "created_at": int(time.time()),
                "ready": time.time() + self.batch_seconds,
                "plan": plan,
            }
            return self.batches[name]

    def poll_batch(self, name):
        with self.lock:
            batch = self.batches[name]
            if batch["status"] == "validating" and time.time() >= batch["ready"]:
                self.run_batch(batch, **batch["plan"])
            return {key: value for key, value in batch.items() if key not in ("ready", "plan")}

    def run_batch(self, batch, status="completed", expired=0.0, twice=0, cut=0, missing=0, failing=0, error=None):
        """Execute a batch out of order: a share not at all, some lines twice, truncated, missing or failing."""
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].decode().splitlines()]
        random.Random(batch["id"]).shuffle(lines)
        batch["status"] = status
        if status == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": error, "message": "no room", "line": None}]}
            return
        late = int(len(lines) * expired)
        out, bad = [], []
        for number, line in enumerate(lines[late:]):
            caption = caption_of(line["body"])
            rejection = self.reject(line["body"]) if self.reject else None
            if rejection:
                response = {"status_code": rejection[0], "body": {"error": {"message": rejection[1]}}}
                bad.append(json.dumps({"id": "r", "custom_id": line["custom_id"], "error": None, "response": response}))
                continue
            self.paid[caption] += number >= failing
            body = chat(self.answer(caption))
            out.append(
                {
                    "id": "r",
                    "custom_id": line["custom_id"],
                    "error": None,
                    "response": {"status_code": 200, "request_id": "q", "body": body},
                }
            )
        for entry in out[:failing]:
            entry["response"] = {"status_code": 500, "body": {"error": {"message": "sorry"}}}
        texts = [json.dumps(entry) for entry in out]
        again = [entry | {"response": {"status_code": 200, "body": chat("{}")}} for entry in out[failing:][:twice]]
        texts = [*texts[: len(texts) - missing], *map(json.dumps, again), *(["{}", "[]", '{"custom_id": "stranger"}'])]
        texts = [text[: len(text) // 2] if i < cut else text for i, text in enumerate(texts)]
        for line in lines[:late]:
            bad.append(
                json.dumps(
                    {
                        "id": "r",
                        "custom_id": line["custom_id"],
                        "response": None,
                        "error": {"code": f"batch_{status}", "message": "not executed"},
                    }
                )
            )
        for kind, texts_of in (("output_file_id", texts), ("error_file_id", bad)):
            batch[kind] = f"file_{kind}_{batch['id']}"
            self.files[batch[kind]] = "\n".join(texts_of).encode()


def chat(content, finish="stop", refusal=None):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "usage": USAGE,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }


def caption_of(body):
    text = body["messages"][1]["content"]
    return text.removeprefix("<caption>\n").removesuffix("\n</caption>")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    @property
    def llm(self):
        return self.server.llm

    def do_GET(self):
        url = urlsplit(self.path)
        parts = url.path.removeprefix("/v1/").split("/")
        self.llm.authorizations.append(self.headers.get("Authorization"))
        if parts[0] == "batches" and len(parts) == 2:
            self.reply(200, self.llm.poll_batch(parts[1])) if parts[1] in self.llm.batches else self.reply(404, {})
        elif parts[0] == "batches":
            self.list_batches(parse_qs(url.query))
        elif parts[0] == "files" and parts[-1] == "content":
            self.send(200, self.llm.files[parts[1]], "application/octet-stream")
        else:
            self.reply(404, {"error": {"message": "not found"}})

    def list_batches(self, query):
        names = sorted(self.llm.batches, key=lambda name: -int(name.split("_")[1]))
        if "after" in query:
            names = names[names.index(query["after"][0]) + 1 :]
        page = [self.llm.poll_batch(name) for name in names[:2]]  # small pages, to test paging
        self.reply(200, {"object": "list", "data": page, "has_more": len(names) > 2})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.llm.authorizations.append(self.headers.get("Authorization"))
        if self.path == "/v1/chat/completions":
            with self.llm.lock:
                self.llm.in_flight += 1
                self.llm.max_in_flight = max(self.llm.max_in_flight, self.llm.in_flight)
            try:
                self.chat(json.loads(content))
            finally:
                with self.llm.lock:
                    self.llm.in_flight -= 1
        elif self.path == "/v1/files":
            self.upload(content)
        elif self.path == "/v1/batches":
            fault = self.llm.create_faults.pop(0) if self.llm.create_faults else None
            batch = None if fault == 500 else self.llm.create_batch(json.loads(content))
            if fault == "lost":
                self.hang_up()
            elif fault == "empty":
                self.reply(200, {})
            elif fault == 500:
                self.reply(500, {"error": {"message": "sorry"}})
            else:
                self.reply(200, self.llm.poll_batch(batch["id"]))
        else:
            self.reply(307, {}, {"Location": "http://127.0.0.1:9/"})

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def upload(self, content):
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + content).get_payload()
        data = next(part for part in parts if part.get_param("name", header="content-disposition") == "file")
        with self.llm.lock:
            name = f"file_{len(self.llm.files)}"
            self.llm.files[name] = data.get_payload(decode=True)
        self.reply(
            200,
            {
                "id": name,
                "object": "file",
                "bytes": 1,
                "created_at": 1,
                "filename": "f",
                "purpose": "batch",
                "status": "processed",
            },
        )

    def chat(self, body):
        caption = caption_of(body)
        with self.llm.lock:
            self.llm.bodies.append(body)
            self.llm.arrivals.append((caption, time.monotonic()))
            fault = self.llm.faults[caption].pop(0) if self.llm.faults[caption] else None
        time.sleep(self.llm.seconds)
        rejection = self.llm.reject(body) if self.llm.reject else None
        if rejection:
            status, text = rejection
            content = text if isinstance(text, bytes) else json.dumps({"error": {"message": text}}).encode()
            self.send(status, content, "text/plain" if isinstance(text, bytes) else "application/json")
            return
        if self.llm.raw:
            self.send(200, self.llm.raw, "text/html", self.llm.raw_headers)
            return
        billed = isinstance(fault, tuple) and fault[0] == "billed"
        if isinstance(fault, tuple) and not billed:
            self.fail(*fault)
            return
        answer = self.llm.complete(caption, self.headers.get("Idempotency-Key"))
        if billed:
            self.fail(*fault[1:])
            return
        if fault == "late":
            self.connection.settimeout(60)
            self.connection.recv(1)  # returns when the client has given up
        if fault == "drop":
            self.hang_up()
        elif fault == "cut body":
            self.send(200, json.dumps(answer).encode()[:-40], "application/json")
        elif fault == "short body":
            self.send(200, json.dumps(answer).encode(), "application/json", missing=40)
        elif callable(fault):
            self.reply(200, fault(caption))
        else:
            self.reply(200, answer)

    def fail(self, status, headers=None, code=None):
        echo = f"you sent {self.headers.get('Authorization')}"
        self.reply(status, {"error": {"message": echo, "code": code, "type": "t", "param": None}}, headers)

    def reply(self, status, content, headers=None):
        self.send(status, json.dumps(content).encode(), "application/json", headers)

    def send(self, status, content, kind, headers=None, missing=0):
        with self.llm.lock:
            self.llm.statuses[status] += 1
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) - missing])
        if missing:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        """Ignore clients that are killed."""


@contextmanager
def serving(answer=sensible):
    """Run a server."""
    llm = FakeLLM(answer)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.llm = llm
    llm.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield llm
    finally:
        server.shutdown()
        server.server_close()
