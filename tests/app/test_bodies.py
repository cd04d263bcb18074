import json
import socket
import time
from contextlib import closing

import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import httpx  # comes with gradio

from app.bodies import names_address
from app.server import served
from app.uploads import Limits
from tests.app.client import Client, file_named, free_port
from tests.app.fake_generator import FakeGenerator
from tests.app.files import encoded, sample_image


@pytest.fixture(scope="module")
def client():
    with served(FakeGenerator(), port=free_port(), limits=Limits(upload_mb=1, uploads_mb=3)) as url:
        yield Client(url)


def test_large_bodies_are_refused_with_and_without_a_length(client):
    files = [("files", (f"{i}.png", bytes(100_000))) for i in range(30)]  # each one alone is small enough
    assert client.http.post(client.url + "/gradio_api/upload", files=files[:5]).status_code == 200
    assert client.http.post(client.url + "/gradio_api/upload", files=files).status_code == 413
    request = client.http.build_request("POST", client.url + "/gradio_api/upload", files=files)
    body = request.read()

    def chunks():
        for begin in range(0, len(body), 1 << 16):
            yield body[begin : begin + (1 << 16)]

    try:
        answer = client.http.post(
            request.url, content=chunks(), headers={"content-type": request.headers["content-type"]}
        )
        assert answer.status_code >= 400
    except httpx.TransportError:  # the server closed the connection
        pass
    too_large = client.join(Client.GRID, {"number": "9" * (3 << 20)})
    assert too_large.status_code == 413
    good = client.upload("good.png", encoded(sample_image()))
    assert "64 x 64" in client.ask(Client.OPEN, {"picture": good})


def test_all_bodies_together_are_limited(client):
    """Requests that never end would hold as much memory or disk as they have sent."""
    address = client.url.removeprefix("http://")
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n" + bytes(900_000)
    unfinished = [socket.create_connection(address.split(":"), timeout=10) for _ in range(3)]
    for one in unfinished:
        one.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + part)
    answers = []
    for _ in range(50):  # until the server has read them
        answers.append(client.http.post(client.url + "/gradio_api/upload", files={"files": ("b.png", bytes(900_000))}))
        if answers[-1].status_code == 503:
            break
        time.sleep(0.1)
    assert answers[-1].status_code == 503
    assert answers[-1].text == "too many uploads at once: try again"
    for one in unfinished:
        one.close()
    for _ in range(50):
        answers.append(client.http.post(client.url + "/gradio_api/upload", files={"files": ("b.png", bytes(900_000))}))
        if answers[-1].status_code == 200:
            break
        time.sleep(0.1)
    assert answers[-1].status_code == 200, "the room of requests that ended is not given back"


def test_addresses_are_not_fetched(client):
    good = client.upload("good.png", encoded(sample_image()))
    assert "64 x 64" in client.ask(Client.OPEN, {"picture": good})  # gives the session its own canvas
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.3)
        named = file_named(f"http://127.0.0.1:{listener.getsockname()[1]}/a.png")
        for job, part in [
            (Client.OPEN, "picture"), (Client.REPAINT, "picture"), (Client.REPAINT, "canvas"), (Client.REPAINT, "mask"),
            (Client.REPAINT, "steps"), (Client.GRID, "number"), (Client.GRID, "grid-seed"),
        ]:  # fmt: skip
            assert "not an address" in client.ask(job, {part: named}), (job, part)
        body = json.dumps(client.body(Client.OPEN, {"picture": named}))
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            headers = {} if kind is None else {"content-type": kind}
            answer = client.http.post(client.url + "/gradio_api/queue/join", content=body, headers=headers)
            assert answer.status_code >= 400, kind
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"data": [{"path": "https://a.example/a.png"}]}', True),
        ('{"data": [[{"a": {"path": "http:\\u002f\\u002fa"}}]]}', True),
        ('{"data": [{"path": "/tmp/a.png", "url": "http://127.0.0.1/file=/tmp/a.png"}]}', False),
        ('{"data": ["http://a.example", 7, null]}', False),
        ("[" * 100_000, True),
        ("not JSON", False),
    ],
)  # fmt: skip
def test_addresses_are_found_where_a_path_should_be(body, expected):
    assert names_address(body.encode()) is expected
    assert names_address(body.encode("utf-16")) is expected
