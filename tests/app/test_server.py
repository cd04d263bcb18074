import io
import json
import os
import re
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import httpx  # comes with gradio

import app
from app.server import names_address, serve, served
from app.uploads import Limits, data_url, mask_layer
from common.errors import UserError
from tests.app.client import Client, file_named, free_port
from tests.app.fake_generator import FakeGenerator
from tests.app.files import BAD, box_mask, encoded, same_outside, sample_image, written


@pytest.fixture
def generator():
    return FakeGenerator(pause=0.05)


@pytest.fixture
def client(generator, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/somewhere/else")
    with served(generator, port=free_port(), limits=Limits(upload_mb=1, waiting=2)) as url:
        yield Client(url)
    assert os.environ["GRADIO_TEMP_DIR"] == "/somewhere/else"


def test_a_taken_port_is_one_line(generator):
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(UserError, match=r"--port"):
            serve(generator, port=one.getsockname()[1])


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 7860), ("127.0.0.1", 700_000), ("127.0.0.1", -1)])
def test_an_address_that_cannot_be_used_is_one_line(host, port, generator):
    with pytest.raises(UserError, match="cannot listen"):
        serve(generator, host=host, port=port)


def test_only_loopback_is_listened_on(client, generator):
    port = int(client.url.rsplit(":", 1)[1])
    assert client.url.startswith("http://127.0.0.1:")
    with closing(socket.socket()) as one:
        assert one.connect_ex(("127.0.0.2", port)) != 0, "a server on all addresses answers here"
    with served(generator, host="0.0.0.0", port=free_port()) as url, closing(socket.socket()) as one:
        assert one.connect_ex(("127.0.0.2", int(url.strip("/").rsplit(":", 1)[1]))) == 0


def test_bad_files_get_a_message_and_a_good_one_works_after_them(client, capfd):
    for name, (data, _) in BAD.items():
        began = time.perf_counter()
        answer = client.ask(Client.OPEN, {"picture": client.upload(name, data)})
        assert "alert" in answer and Path(name).stem in answer, name
        assert time.perf_counter() - began < 5, name
    answer = client.ask(Client.OPEN, {"picture": client.upload("good.png", encoded(sample_image()))})
    assert "64 x 64 pixels" in answer and "data:image/png" in answer
    assert "alert" not in answer
    assert "Traceback" not in "".join(capfd.readouterr())


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


def test_files_that_were_not_uploaded_are_closed(client, tmp_path):
    secret = written(tmp_path, "secret.png", sample_image())
    for path in (secret, app.__file__, "/etc/passwd"):
        assert client.fetch(path).status_code in (403, 404), path
        answer = client.ask(Client.OPEN, {"picture": file_named(path)})
        assert "pixels" not in answer and '"success": false' in answer, path


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


def test_the_queue_cannot_be_passed_by(client):
    answer = client.http.post(client.url + "/gradio_api/run/predict", json=client.body(Client.GRID))
    assert answer.status_code >= 400


def test_one_job_runs_at_a_time_and_the_queue_is_bounded(client, generator):
    joined = [client.join(Client.GRID, {"number": 1}, f"visitor{i}") for i in range(6)]
    accepted = [i for i, answer in enumerate(joined) if answer.status_code == 200]
    assert 2 <= len(accepted) < 6
    assert all("full" in answer.text.lower() for answer in joined if answer.status_code != 200)
    for i in accepted:
        assert client.answer(f"visitor{i}")["success"]
    assert len(generator.calls) == len(accepted)
    assert generator.most_running == 1
    assert '"success": true' in client.ask(Client.GRID, {"number": 1}, "later")


def test_results_are_files_of_this_server_and_are_deleted_with_it():
    mask = box_mask((64, 64), (0, 0, 20, 20))
    with served(FakeGenerator(), port=free_port()) as url:
        client = Client(url)
        uploaded = client.upload("good.png", encoded(sample_image()))
        answer = client.ask(Client.REPAINT, {"picture": uploaded, "canvas": data_url(mask_layer(mask)), "count": 2})
        assert "2 variants in" in answer
        found = re.findall(r'"path": "([^"]*repaint-0-\d\.png)"', answer)
        assert len(set(found)) == 2
        fetched = Image.open(io.BytesIO(client.fetch(found[0]).content))
        assert same_outside(sample_image(), fetched, mask)
        folder = Path(uploaded["path"]).parents[1]
        assert folder in Path(found[0]).parents
        assert folder.stat().st_mode & 0o077 == 0, "other users can read the folder"
    assert not folder.exists()


def test_requests_leave_only_uploads_and_results(client):
    uploaded = client.upload("good.png", encoded(sample_image()))
    folder = Path(uploaded["path"]).parents[1]
    client.ask(Client.OPEN, {"picture": uploaded})
    client.ask(Client.GRID, {"number": 1})
    assert {path.name for path in folder.rglob("*") if path.is_file()} >= {"good.png", "grid-0.png"}
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == 0]
