"""Weights from http addresses, against a server on this machine that can break off, lie and refuse."""

import functools
import hashlib
import http.server
import json
import threading

import pytest

import vit_jax
from tests.checkpoints.test_export import source as random_vit
from vit_jax.checkpoints import http as fetching
from vit_jax.checkpoints import remote
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.errors import UserError


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the start of the path says how: /whole, /broken (every answer ends after 20 kB), ..."""

    def do_GET(self):
        how, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        self.server.asked.append((how, name, self.headers.get("Range")))
        file = self.server.folder / name
        if how in ("moved", "away"):
            self.send_response(302)
            self.send_header("Location", f"/whole/{name}" if how == "moved" else "ftp://127.0.0.1/x.npz")
            return self.end_headers()
        if how == "page":
            return self.answer(200, b"<html>", {"Content-Type": "text/html"})
        if how == "secret" or not file.is_file():
            return self.send_error(403 if how == "secret" else 404)
        data = file.read_bytes()
        if how in ("broken", "untagged"):
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            headers = {"ETag": '"one"'} if how == "broken" else {}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            part = data[start:]
            return self.answer(206 if start else 200, part[: 60_000 if how == "broken" else 10], headers, len(part))
        self.answer(200, data, {}, 10**15 if how == "huge" else None if how == "unsaid" else len(data))

    def answer(self, status, data, headers, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    export(random_vit(), folder / "x.npz", "npz")
    export(random_vit(), folder, "timm")
    file = SafetensorsFile(folder / "model.safetensors")
    names = list(file.shapes)
    for number in range(2):
        write_safetensors(folder / f"p{number}.safetensors", {name: file[name] for name in names[number::2]})
    places = {name: f"p{i % 2}.safetensors" for i, name in enumerate(names)}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        server.folder, server.asked = folder, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(server, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_address[1]}"


def left(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_url_is_loaded_with_what_lies_beside_it(server, url, tmp_path):
    for name, beside in (("x.npz", 1), ("model.safetensors", 1), ("m.safetensors.index.json", 3)):
        loaded = vit_jax.load(f"{url}/whole/{name}")
        assert loaded.labels == ("cat", "dog", "a fish"), name
        folder = next(tmp_path.rglob(name)).parent
        assert len(list(folder.iterdir())) == 1 + beside and not list(folder.glob("part-*"))
        before = len(server.asked)
        assert remote.fetch(f"{url}/whole/{name}").parent == folder and len(server.asked) == before  # it is kept
    # Queries are no part of the name; another address is another file.
    assert remote.fetch(f"{url}/moved/x.npz?download=1").name == "x.npz"
    assert remote.fetch(f"{url}/unsaid/x.npz").read_bytes() == (server.folder / "x.npz").read_bytes()


def test_a_broken_connection_is_taken_up_again(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_TRIES", 20)
    found = remote.fetch(f"{url}/broken/x.npz")
    assert found.read_bytes() == (server.folder / "x.npz").read_bytes()
    ranges = [asked for how, name, asked in server.asked if name == "x.npz"]
    assert len(ranges) > 2 and ranges[:3] == [None, "bytes=60000-", "bytes=120000-"]
    monkeypatch.setattr(fetching, "_TRIES", 3)
    with pytest.raises(UserError, match=r"could not be fetched: the connection ended after 10 of \d+ bytes"):
        remote.fetch(f"{url}/untagged/x.npz")
    assert len(left(tmp_path)) == 2  # the first file and its config.json


def test_sha256(server, url, tmp_path):
    right = hashlib.sha256((server.folder / "x.npz").read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"x.npz has the sha256 {right}, not 00"):
        vit_jax.load(f"{url}/whole/x.npz", sha256="0" * 64)
    assert not left(tmp_path)
    assert vit_jax.load(f"{url}/whole/x.npz", sha256=right)
    next(tmp_path.rglob("x.npz")).write_bytes(b"damaged")
    assert vit_jax.load(f"{url}/whole/x.npz", sha256=right)  # what is kept is not what was asked for


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("whole/nowhere.npz", "was answered by 404"),
        ("secret/x.npz", "was answered by 403"),
        ("page/x.npz", "is a web page, no file"),
        ("away/x.npz", "leads to 'ftp://127.0.0.1/x.npz', which is not followed"),
        ("huge/x.npz", "has 1000000000000000 bytes, more than the"),
        ("whole/", "names no file"),
        ("whole/x.pth", "names no file that vit_jax reads"),
        ("whole/a b.npz", "is not an address: URL can't contain control characters"),
        ("whole/..%2f..%2fx.npz", "names no file"),
    ],
)
def test_every_failure_is_a_sentence_and_leaves_nothing(url, path, message, tmp_path):
    with pytest.raises(UserError, match=message):
        vit_jax.load(f"{url}/{path}")
    assert not left(tmp_path)


def test_limits_and_addresses_that_do_not_answer(url, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_TIMEOUT", 2.0)
    with pytest.raises(UserError, match="has more than the 1000 bytes that are fetched"):
        fetching.download(f"{url}/unsaid/x.npz", tmp_path / "x", limit=1000)
    for nowhere in ("http://127.0.0.1:9/x.npz", "https://127.0.0.1:9/x.npz"):
        with pytest.raises(UserError, match="could not be reached: .*refused"):
            vit_jax.load(nowhere)
    for wrong in ("http://[x/x.npz", "http:///x.npz", "http://a:b/x.npz"):
        with pytest.raises(UserError):
            vit_jax.load(wrong)
    with pytest.raises(UserError, match="could not be reached"):
        vit_jax.load(url.replace("http", "https") + "/whole/x.npz")  # no TLS there
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="could not be stored below"):
        vit_jax.load(f"{url}/whole/x.npz")
