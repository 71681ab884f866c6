"""Model files on a hub: a local server stands in for it."""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from oct_jax import UserError, load
from oct_jax.runs.hub import fetch_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with one repository, `owner/name`, and the requests that it has answered."""
    content = b"the model file"
    answered = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            answered.append((self.command, self.path))
            known = self.path.startswith("/owner/name/resolve/")
            revision = self.path.split("/")[4] if known else ""
            if revision not in ("main", "v2", COMMIT):
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *words):
            pass

    monkeypatch.setenv("OCT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", content, answered
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("address", ["hf://owner/name", "hf://owner/name@v2"])
def test_a_file_is_fetched_once(hub, address):
    endpoint, content, answered = hub
    path = fetch_model(address, endpoint=endpoint)
    assert path.read_bytes() == content
    assert fetch_model(address, endpoint=endpoint) == path
    assert [kind for kind, _ in answered].count("GET") == 1


def test_a_hub_that_is_gone_leaves_what_is_cached(hub):
    endpoint, content, _ = hub
    fetch_model(f"hf://owner/name@{COMMIT}", endpoint=endpoint)
    path = fetch_model(f"hf://owner/name@{COMMIT}", endpoint="http://127.0.0.1:9")
    assert path.read_bytes() == content


@pytest.mark.parametrize("address", ["hf://owner/other", "hf://owner/name@v9"])
def test_what_is_not_there_is_one_line(hub, address):
    endpoint, *_ = hub
    with pytest.raises(UserError, match="cannot be fetched") as error:
        fetch_model(address, endpoint=endpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/b c"])
def test_no_address_is_one_line(address):
    with pytest.raises(UserError, match="write hf://owner/name"):
        load(address)


def test_without_the_extra_the_line_names_its_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "oct-jax\[hub\]"'):
        load("hf://owner/name")
