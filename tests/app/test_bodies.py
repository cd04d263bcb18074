import json
import socket
from contextlib import closing

import anyio
import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import httpx  # comes with gradio
from starlette.responses import PlainTextResponse

from app.bodies import BodyLimit, names_address
from app.server import served
from app.uploads import Limits
from tests.app.client import Client, file_named, free_port
from tests.app.fake_generator import FakeGenerator
from tests.app.files import encoded, sample_image


@pytest.fixture(scope="module")
def client():
    with served(FakeGenerator(), port=free_port(), limits=Limits(upload_mb=1)) as url:
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


def test_all_bodies_together_are_limited():
    """Requests that never end hold as much memory or disk as they have sent."""
    answers, rest = {}, anyio.Event()

    async def application(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await PlainTextResponse("read")(scope, receive, send)

    async def request(limit, name, wait):
        parts = [
            {"type": "http.request", "body": bytes(8), "more_body": True},
            {"type": "http.request", "more_body": False},
        ]

        async def receive():
            if wait and len(parts) == 1:
                await rest.wait()
            return parts.pop(0)

        async def send(message):
            answers.setdefault(name, message.get("status"))

        await limit({"type": "http"}, receive, send)

    async def requests():
        limit = BodyLimit(application, most=10, together=15)
        async with anyio.create_task_group() as group:
            group.start_soon(request, limit, "unfinished", True)
            await anyio.wait_all_tasks_blocked()
            await request(limit, "beyond", False)
            rest.set()
        await request(limit, "later", False)

    anyio.run(requests)
    assert answers == {"unfinished": 200, "beyond": 503, "later": 200}


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
