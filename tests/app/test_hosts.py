import socket

import anyio
import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.hosts import HostCheck
from app.server import served
from common.errors import UserError
from tests.app.client import Client, free_port
from tests.app.fake_generator import FakeGenerator

NAMED = ["studio.example", "tunnel.example:8000", "[2001:db8::1]"]
UPLOAD = "/gradio_api/upload"
PATHS = [
    ("GET", "/"), ("GET", "/config"), ("GET", "/gradio_api/queue/data?session_hash=a"), ("GET", "/gradio_api/file=a.png"),
    ("POST", "/gradio_api/queue/join"), ("POST", UPLOAD),
]  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with served(FakeGenerator(), port=free_port(), allowed=NAMED) as url:
        yield Client(url)


def status(client, method, path, **headers) -> int:
    """The status of an answer; one of 403 is one line of plain text that names the flag."""
    files = {"files": ("a.png", b"a")} if path == UPLOAD else None
    with client.http.stream(method, client.url + path, headers=headers, files=files) as answer:
        if answer.status_code == 403:
            text = answer.read().decode()
            assert answer.headers["content-type"].startswith("text/plain")
            assert "--allow-host" in text and len(text.splitlines()) == 1
        return answer.status_code


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_other_hosts_and_origins_are_refused(client, method, path):
    port = client.url.rsplit(":", 1)[1]
    for host in (
        f"attacker.example:{port}", f"127.0.0.1.attacker.example:{port}", f"user@127.0.0.1:{port}", f"0.0.0.0:{port}",
        f"[::1]:{port}", f"127.0.0.2:{port}", "127.0.0.1", "127.0.0.1:1", f"localhost:{port}0", "tunnel.example",
        "tunnel.example:8001", "studio.example/", "studio.example:", "[::1", "", "a\u00e9:1".encode("latin-1"),
    ):  # fmt: skip
        assert status(client, method, path, host=host) == 403, host
    for origin in (
        "https://attacker.example", f"http://attacker.example:{port}", "http://localhost:1", "http://127.0.0.1",
        f"https://127.0.0.1:{port}0", "null", "file://", "", f"http://localhost:{port}@attacker.example", "http://[::1",
    ):  # fmt: skip
        assert status(client, method, path, origin=origin) == 403, origin


@pytest.mark.parametrize("name", [
    "127.0.0.1:{}", "localhost:{}", "LocalHost:{}", "studio.example", "studio.example:8443", "tunnel.example:8000",
    "[2001:DB8:0::1]:9",
])  # fmt: skip
def test_the_served_address_and_named_ones_are_allowed(client, name):
    host = name.format(client.url.rsplit(":", 1)[1])
    for headers in ({}, {"origin": f"http://{host}"}, {"origin": "https://studio.example"}):
        assert status(client, "GET", "/config", host=host, **headers) == 200
        assert status(client, "POST", UPLOAD, host=host, **headers) == 200


def test_two_hosts_are_refused(client):
    address = client.url.removeprefix("http://")
    with socket.create_connection(address.split(":"), timeout=10) as one:
        one.sendall(f"GET /config HTTP/1.1\r\nHost: {address}\r\nHost: attacker.example\r\n\r\n".encode())
        assert one.recv(100).split()[1] in (b"400", b"403")


def test_a_server_of_all_addresses_answers_under_the_one_that_was_connected_to():
    with served(FakeGenerator(), host="0.0.0.0", port=free_port()) as url:
        port = url.strip("/").rsplit(":", 1)[1]
        client = Client(url)
        client.url = f"http://127.0.0.2:{port}"
        for host in (f"127.0.0.2:{port}", f"localhost:{port}", f"0.0.0.0:{port}"):
            assert status(client, "GET", "/config", host=host) == 200
        for host in (f"127.0.0.3:{port}", f"attacker.example:{port}"):
            assert status(client, "GET", "/config", host=host) == 403, host


@pytest.mark.parametrize(("server", "host", "allowed"), [
    ("192.168.1.5", "192.168.1.5:7860", True), ("192.168.1.5", "localhost:7860", False), ("::1", "localhost:7860", True),
    ("::1", "[0:0::1]:7860", True), ("::ffff:192.168.1.5", "192.168.1.5:7860", True), ("::1", "[::2]:7860", False),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_addresses_of_both_families(kind, server, host, allowed):
    passed, sent = [], []

    async def application(scope, receive, send):
        passed.append(scope)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "server": (server, 7860), "headers": [(b"host", host.encode())], "method": "GET"}
    anyio.run(HostCheck(application, "::", []), scope, None, send)
    assert bool(passed) is allowed
    if not allowed:
        assert sent[0]["type"] == ("websocket.close" if kind == "websocket" else "http.response.start")


@pytest.mark.parametrize("name", ["http://a.example", "a.example/", "", "a b", "a:x", "*", "a:70000", "user@a.example"])
def test_what_is_no_host_cannot_be_allowed(name):
    with pytest.raises(UserError, match="--allow-host takes a name"):
        HostCheck(None, "127.0.0.1", [name])
