import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import app
import sample
from app.data_url import data_url
from app.server import serve, served, stopped_by_signals
from app.storage import PREFIX
from app.uploads import Limits, mask_layer
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


def test_files_that_were_not_uploaded_are_closed(client, tmp_path):
    secret = written(tmp_path, "secret.png", sample_image())
    for path in (secret, app.__file__, "/etc/passwd"):
        assert client.fetch(path).status_code in (403, 404), path
        answer = client.ask(Client.OPEN, {"picture": file_named(path)})
        assert "pixels" not in answer and '"success": false' in answer, path


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
        answer = client.ask(
            Client.REPAINT, {"picture": uploaded, "canvas": data_url(mask_layer(mask)), "count": 2, "random": False}
        )
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
    client.ask(Client.GRID, {"number": 1, "grid-random": False})
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"good.png", "grid-0.png"}


def test_uploads_and_results_never_fill_the_disk():
    with served(FakeGenerator(), port=free_port(), limits=Limits(files=5)) as url:
        client = Client(url)
        uploaded = [client.upload(f"{i}.png", encoded(Image.new("RGB", (64, 64), (i, 0, 0)))) for i in range(8)]
        folder = Path(uploaded[0]["path"]).parents[1]
        wait_for_files(folder, 5)
        for _ in range(2):
            client.ask(Client.GRID, {"number": 1})
        wait_for_files(folder, 5)
        assert "64 x 64" in client.ask(Client.OPEN, {"picture": uploaded[-1]}), "the newest ones are kept"
        assert "no longer on the server" in client.ask(Client.OPEN, {"picture": uploaded[0]})


def wait_for_files(folder: Path, most: int) -> None:
    """Wait until there are at most so many files: the oldest are deleted just after an answer."""
    found = []
    for _ in range(50):
        found = [path for path in folder.rglob("*") if path.is_file()]
        if len(found) <= most:
            return
        time.sleep(0.1)
    raise AssertionError(f"{len(found)} files")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_stop_as_ctrl_c_does_and_once(name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    number = getattr(signal, name)
    started = signal.signal(number, signal.SIG_DFL)  # nohup starts the tests with an ignored SIGHUP
    before = signal.getsignal(number)
    with stopped_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(5)
        os.kill(os.getpid(), number)  # must not interrupt the deletion of files
        time.sleep(0.1)
    assert signal.signal(number, started) == before


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup starts a program."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with stopped_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_IGN


SERVER = """
import sys
from app.server import serve
from tests.app.fake_generator import FakeGenerator
serve(FakeGenerator(), port=int(sys.argv[1]))
"""


def test_sigterm_deletes_uploads_and_results(tmp_path):
    command = [sys.executable, "-c", SERVER, str(free_port())]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as server:  # fmt: skip
        assert "the page is at" in server.stdout.readline()
        (folder,) = tmp_path.glob(f"{PREFIX}*")
        (folder / "files" / "upload.png").write_text("a")
        server.terminate()
        assert server.wait(30) == 0
        assert "Traceback" not in server.stderr.read()
    assert not folder.exists()


def test_the_command_line_reaches_the_server(monkeypatch):
    served_with = {}
    monkeypatch.setattr("app.server.serve", lambda generator, **options: served_with.update(options))
    monkeypatch.setattr("diffusion.pipeline.ImageGenerator.from_pretrained", lambda *_: FakeGenerator())
    names = ["--allow-host", "studio.example", "--allow-host", "localhost:8000"]
    sample.main(["app", "--model", "any", "--host", "::1", "--port", "7000", *names])
    assert served_with == {"host": "::1", "port": 7000, "allowed": ["studio.example", "localhost:8000"]}


def test_a_host_that_is_none_is_refused_before_anything_is_served(generator):
    with pytest.raises(UserError, match="--allow-host takes a name"):
        serve(generator, port=free_port(), allowed=["http://a.example"])


def test_addresses_of_ipv6_can_be_opened(generator):
    for host in ("::", "::1"):
        try:
            with closing(socket.socket(socket.AF_INET6)) as one:
                one.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        with served(generator, host=host, port=free_port()) as url:
            assert Client(url).jobs, host
