"""The page: its handlers alone, its server over HTTP, and the whole of it in a headless Chromium where there is one."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from common.errors import UserError
from diffusion.graph import Absorbing, Uniform
from diffusion.pipeline import ImageGenerator
from diffusion.sampler import NEEDS_MASK, SAMPLERS

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install 'smalti[app]'")
import httpx  # comes with gradio

import app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_MS = 60_000  # for what a browser does in a second on an idle machine
CONTROLS = (app.RANDOM, "tweedie", 4, 1.0, 0)


class Painter:
    """Stands for a generator: turns what is under the mask to its negative, a little different in every variant."""

    def __init__(self, classes: tuple[str, ...] = ("round", "long"), graph=Absorbing, pause: float = 0.0) -> None:
        self.tokenizer = SimpleNamespace(image_size=32, channels=1, downsample=4, codebook_size=16)
        self.grid, self.class_names, self.graph = (8, 8), list(classes), graph(16)
        self.guided = bool(classes)
        self.pause, self.calls, self.at_once, self.most_at_once, self.previews = pause, [], 0, 0, 0
        self.lock, self.failure = threading.Lock(), None

    def walk(self, n: int, steps: int, callback) -> None:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for step in range(steps):
                time.sleep(self.pause)
                if self.failure:
                    raise self.failure
                callback(self, step, 1 - (step + 1) / steps, {"codes": torch.zeros((n, 8, 8), dtype=torch.int64)})
        finally:
            with self.lock:
                self.at_once -= 1

    def inpaint(self, image, mask, n, labels, steps, guidance, *, seed, fit, sampler, callback_on_step_end):
        self.calls.append({"labels": labels, "steps": steps, "guidance": guidance, "seed": seed, "sampler": sampler})
        self.walk(n, steps, callback_on_step_end)
        white = np.asarray(mask.convert("L")) >= 128
        results = []
        for variant in range(n):
            pixels = np.array(image.convert("RGB"))
            pixels[white] = 255 - pixels[white] - (pixels[white] < 128) * variant
            results.append(Image.fromarray(pixels))
        return results

    def generate(self, n, labels, steps, guidance, *, seed, sampler, callback_on_step_end):
        self.calls.append({"labels": labels, "steps": steps})
        self.walk(n, steps, callback_on_step_end)
        return [Image.new("L", (32, 32), 40 * (i % 5)) for i in range(n)]

    def preview(self, codes):
        self.previews += 1
        return [Image.new("L", (32, 32), 128) for _ in codes]


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """A colourful one, everywhere different."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([across * 5 % 256, down * 3 % 256, (across + down) % 256], -1).astype(np.uint8))


def noise() -> Image.Image:
    """64 x 64, of many bytes."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


SCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n"
BAD = {  # bytes, and words of what is said about them
    "truncated.png": (encoded(noise())[:6000], "does not decode"),
    "truncated.jpg": (encoded(noise(), "JPEG")[:2000], "does not decode"),
    "text.png": (b"this is no picture", "not a picture"),
    "empty.png": (b"", "not a picture"),
    "tiny.png": (encoded(Image.new("RGB", (1, 1))), "sides of at least 8"),
    "line.png": (encoded(Image.new("L", (30_000, 1))), "sides of at least 8"),
    "bomb.png": (bomb(60_000, 60_000), "far too many pixels"),
    "large.png": (bomb(4_000, 4_000), "more than 12 million"),
    "script.eps": (SCRIPT, "not a picture"),  # not for the interpreter
    "script.png": (SCRIPT, "not a picture"),
    "damaged.gif": (encoded(noise(), "GIF")[:40] + bytes(50), "not a picture|does not decode"),
    "damaged.tiff": (encoded(noise(), "TIFF")[:2000], "does not decode"),
}
ODD = {
    "sixteen.png": encoded(Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16))),
    "cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG"),
    "palette.png": encoded(picture().quantize(16)),
    "transparent.png": encoded(picture().convert("RGBA")),
    "animated.gif": encoded(
        picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    ),
    "really-a-png.jpg": encoded(picture()),
    "long.png": encoded(picture(64, 1000)),
    "no extension": encoded(picture()),
}


@pytest.fixture
def studio(tmp_path) -> Iterator[app.Studio]:
    studio = app.Studio(Painter(), app.DEFAULT_LIMITS, tmp_path / "results")
    yield studio
    studio.close()


def written(folder: Path, name: str, data: bytes | Image.Image) -> str:
    path = folder / name
    path.write_bytes(encoded(data) if isinstance(data, Image.Image) else data)
    return str(path)


def same_outside(before: Image.Image, after: Image.Image, mask: Image.Image) -> bool:
    """Whether all pixels but the masked ones are the same."""
    kept = np.asarray(mask) < 128
    return before.size == after.size and bool((np.asarray(before)[kept] == np.asarray(after)[kept]).all())


def changed_inside(before: Image.Image, after: Image.Image, mask: Image.Image) -> float:
    """The share of masked pixels that are different."""
    inside = np.asarray(mask) >= 128
    different = np.asarray(before)[inside] != np.asarray(after)[inside]
    return float(different.reshape(len(different), -1).any(1).mean())


# ---------------------------------------------------------------------------------------------------------- handlers


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name, tmp_path):
    data, words = BAD[name]
    path = written(tmp_path, name, data)
    began = time.perf_counter()
    with pytest.raises(UserError, match=words) as caught:
        app.read_upload(path, app.DEFAULT_LIMITS)
    assert time.perf_counter() - began < 5
    message = str(caught.value)
    assert message.startswith(name) and str(tmp_path) not in message and "\n" not in message


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_repainted(name, tmp_path, studio):
    path = written(tmp_path, name, ODD[name])
    shown, given, status = studio.open_picture(path)
    assert shown.startswith("data:image/") and given == "" and "alert" not in status
    image = app.read_upload(path, app.DEFAULT_LIMITS)
    mask = box_mask(image.size, (8, 8, 40, 40))
    *_, last = studio.repaint(path, None, app.data_url(app.mask_layer(mask)), 1, True, *CONTROLS)
    assert Image.open(last.pictures[0]).size == image.size


def test_limits_are_inclusive(tmp_path):
    limits = app.Limits(pixels=100 * 50, side=20, ratio=4)
    for width, height, fits in [(100, 50, True), (101, 50, False), (20, 80, True), (19, 19, False), (20, 81, False)]:
        path = written(tmp_path, "picture.png", picture(width, height))
        if fits:
            assert app.read_upload(path, limits).size == (width, height)
        else:
            with pytest.raises(UserError, match=f"{width} x {height}"):
                app.read_upload(path, limits)


@pytest.mark.parametrize("size", [(64, 64), (31, 77), (1024, 40)])
def test_the_canvas_gives_the_painted_pixels_back(size):
    mask = Image.fromarray((np.random.default_rng(0).random(size[::-1]) < 0.3).astype(np.uint8) * 255)
    layer = app.read_canvas(app.data_url(app.mask_layer(mask)), size)
    assert layer is not None and np.array_equal(app.mask_of(layer, size), mask)


def test_what_is_painted_on_is_the_picture():
    assert app.canvas_size((64, 48)) == (64, 48) and app.canvas_size((4096, 1024)) == (1024, 256)
    assert app.canvas_size((4096, 1)) == (1024, 1)


@pytest.mark.parametrize(
    "sent",
    [
        "x", 7, {"path": "/etc/passwd"}, ["data:image/png;base64,"], app.PNG_URL, app.PNG_URL + "%%%",
        app.PNG_URL + base64.b64encode(BAD["truncated.png"][0]).decode(),
        app.PNG_URL + base64.b64encode(BAD["bomb.png"][0]).decode(),
        app.data_url(Image.new("RGBA", (65, 64), app.MASK_COLOUR)),
    ],
)  # fmt: skip
def test_a_canvas_that_did_not_come_from_the_page_is_refused(sent):
    with pytest.raises(UserError, match="paint"):
        app.read_canvas(sent, (64, 64))


def test_variants_differ_inside_the_mask_only(tmp_path, studio):
    image, mask = picture(), box_mask((64, 64), (10, 20, 30, 40))
    path, canvas = written(tmp_path, "picture.png", image), app.data_url(app.mask_layer(mask))
    updates = list(studio.repaint(path, None, canvas, 3, True, 1, "halton", 5, 2.0, 7))
    assert updates[0].pictures == [] and updates[0].codes == ""  # those of the last time go at once
    assert any(isinstance(update.codes, Image.Image) for update in updates[1:-1])
    results = [Image.open(path) for path in updates[-1].pictures]
    assert [Path(path).name for path in updates[-1].pictures] == [f"repaint-7-{i}.png" for i in (1, 2, 3)]
    for result in results:
        assert same_outside(image, result, mask) and changed_inside(image, result, mask) == 1
    assert len({result.tobytes() for result in results}) == 3
    about = {"seed": "7", "label": "long", "num_inference_steps": "5", "sampler": "halton", "guidance_scale": "2"}
    assert results[0].info | about == results[0].info
    assert studio.model.calls == [{"labels": 1, "steps": 5, "guidance": 2.0, "seed": 7, "sampler": "halton"}]


def test_a_mask_file_is_kept_exactly_though_the_canvas_is_coarser(tmp_path, studio):
    image = picture(2000, 1500)
    mask = Image.fromarray((np.random.default_rng(1).random((1500, 2000)) < 0.01).astype(np.uint8) * 255)
    paths = written(tmp_path, "picture.png", image), written(tmp_path, "mask.png", mask)
    _, given, _ = studio.open_picture(*paths)
    *_, last = studio.repaint(*paths, given, 1, True, *CONTROLS)
    result = Image.open(last.pictures[0])
    assert same_outside(image, result, mask) and changed_inside(image, result, mask) == 1
    more = Image.open(io.BytesIO(base64.b64decode(given[len(app.PNG_URL) :]))).convert("RGBA")
    more.paste(app.MASK_COLOUR, (0, 0, 100, 100))  # and painting goes on top of it
    *_, last = studio.repaint(*paths, app.data_url(more), 1, True, *CONTROLS)
    corner = box_mask((2000, 1500), (0, 0, 190, 190))
    assert changed_inside(image, Image.open(last.pictures[0]), corner) == 1


@pytest.mark.parametrize(
    ("which", "value", "words"),
    [
        (0, None, "no picture"), (2, "", "nothing is painted"), (3, 9, "variants"), (3, 1.5, "variants"), (3, None, "variants"),
        (5, 2, "label"), (7, 257, "steps"), (7, 0, "steps"), (7, 1e308, "steps"), (7, "4", "steps"), (8, None, "guidance"),
        (8, 101, "guidance"), (8, float("nan"), "guidance"), (9, -1, "seed"), (9, 0.5, "seed"), (9, float("inf"), "seed"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(which, value, words, tmp_path, studio):
    path = written(tmp_path, "picture.png", picture())
    canvas = app.data_url(app.mask_layer(box_mask((64, 64), (0, 0, 9, 9))))
    values = [path, None, canvas, 1, True, *CONTROLS]
    values[which] = value
    with pytest.raises(UserError, match=words):
        list(studio.repaint(*values))
    assert not studio.model.calls


def test_large_pictures_get_few_variants(tmp_path):
    studio = app.Studio(Painter(), app.Limits(all_pixels=2 * 64 * 64), tmp_path)
    path, canvas = (
        written(tmp_path, "picture.png", picture()),
        app.data_url(app.mask_layer(box_mask((64, 64), (0, 0, 9, 9)))),
    )
    *_, last = studio.repaint(path, None, canvas, 2, True, *CONTROLS)
    assert len(last.pictures) == 2
    with pytest.raises(UserError, match="at most 2 variants"):
        list(studio.repaint(path, None, canvas, 3, True, *CONTROLS))
    studio.close()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.new("L", (64, 64)), "no white"),
        (Image.new("L", (64, 60), 255), "64 x 60"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, words, tmp_path, studio):
    paths = written(tmp_path, "picture.png", picture()), written(tmp_path, "mask.png", mask)
    with pytest.raises(UserError, match=words):
        studio.open_picture(*paths)
    with pytest.raises(UserError, match="picture first"):
        studio.open_picture(None, paths[1])


def test_grid_labels_in_turn_make_columns(studio):
    *_, last = studio.grid(6, app.IN_TURN, "tweedie", 3, 1.0, 5)
    assert Image.open(last.pictures[0]).size == (2 * 34 - 2, 3 * 34 - 2) and last.pictures[0].endswith("grid-5.png")
    *_, last = studio.grid(9, app.RANDOM, "tweedie", 3, 1.0, 5)
    assert Image.open(last.pictures[0]).size == (3 * 34 - 2, 3 * 34 - 2)
    assert [call["labels"] for call in studio.model.calls] == [[0, 1], None]


def test_previews_take_a_small_share_of_the_time(studio):
    def slow_preview(codes):
        studio.model.previews += 1
        time.sleep(0.02)
        return [Image.new("L", (8, 8)) for _ in codes]

    studio.model.preview, studio.model.pause = slow_preview, 0.01
    began = time.perf_counter()
    list(studio.grid(1, app.RANDOM, "tweedie", 100, 1.0, 0))
    took = time.perf_counter() - began
    # One at the first step, one at the end, and between them as many as the share allows: about 12, not 100. The limit
    # follows from the time that it really took, which on a busy machine is longer.
    assert 3 <= studio.model.previews <= 2 + app.PREVIEW_SHARE * took / 0.02


def test_drawing_stops_where_nobody_looks(studio):
    studio.model.pause = 0.1
    updates = studio.grid(1, app.RANDOM, "tweedie", 200, 1.0, 0)
    next(updates), next(updates)
    updates.close()
    began = time.perf_counter()
    list(studio.grid(1, app.RANDOM, "tweedie", 1, 1.0, 0))  # the next one need not wait for 200 steps
    assert time.perf_counter() - began < 10


def test_mistakes_are_told_and_surprises_are_logged(studio, caplog):
    studio.model.failure = UserError("a <b>bold</b>\nmistake")
    *_, (status, _, _) = app.on_page(studio.grid(1, *CONTROLS), list)
    assert "a &lt;b&gt;bold&lt;/b&gt; mistake" in status and 'role="alert"' in status and not caplog.records
    studio.model.failure = RuntimeError("secret of the server")
    *_, (status, _, _) = app.on_page(studio.grid(1, *CONTROLS), list)
    assert app.FAILED in status and "secret" not in status
    assert "secret of the server" in caplog.text


# ------------------------------------------------------------------------------------------------------------ server


def parts(page) -> dict:
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_page_offers_what_the_model_can():
    found = parts(app.build_page(Painter()))
    assert [name for name, _ in found["label"].choices] == ["random", "each in turn", "round", "long"]
    assert found["label"].visible and found["guidance"].visible
    assert [name for name, _ in found["sampler"].choices] == list(SAMPLERS)
    found = parts(app.build_page(Painter(classes=(), graph=Uniform)))
    assert not any(found[name].visible for name in ("label", "guidance", "grid-label", "grid-guidance"))
    assert {name for name, _ in found["sampler"].choices} == set(SAMPLERS) - set(NEEDS_MASK)
    for name, part in found.items():
        if part.get_block_name() in ("dropdown", "slider", "number", "checkbox", "file", "image", "gallery"):
            assert part.label, f"{name} has no label"


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    spec = importlib.util.spec_from_file_location("app_without_gradio", app.__file__)
    assert spec and spec.loader
    with pytest.raises(UserError, match=r"pip install 'smalti\[app\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_nothing_is_written_beside_the_module():
    assert not Path(app.__file__).with_suffix(".pyi").exists()


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_taken_ports_and_foreign_addresses_are_one_line():
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(UserError, match=r"--port"):
            app.serve(Painter(), port=one.getsockname()[1])
    for host, port in (("192.0.2.1", 7860), ("127.0.0.1", 700_000), ("127.0.0.1", -1)):
        with pytest.raises(UserError, match="cannot listen"):
            app.serve(Painter(), host=host, port=port)


class Client:
    """A page's requests without a page."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.http = httpx.Client(trust_env=False, timeout=20)
        config = self.http.get(self.url + "/config").json()
        names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self.jobs = {
            (names.get(target[0]), target[1]): job["id"] for job in config["dependencies"] for target in job["targets"]
        }

    def upload(self, name: str, data: bytes) -> dict:
        answer = self.http.post(self.url + "/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def join(self, job: tuple[str, str], data: list, session: str = "one") -> httpx.Response:
        body = {"data": data, "fn_index": self.jobs[job], "session_hash": session}
        return self.http.post(self.url + "/gradio_api/queue/join", json=body)

    def answer(self, session: str = "one") -> dict:
        with self.http.stream("GET", self.url + f"/gradio_api/queue/data?session_hash={session}") as lines:
            for line in lines.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") in ("process_completed", "close_stream", "unexpected_error"):
                    return message
        raise AssertionError("the stream ended without an answer")

    def ask(self, job: tuple[str, str], data: list, session: str = "one") -> str:
        joined = self.join(job, data, session)
        return json.dumps(self.answer(session)) if joined.status_code == 200 else joined.text


OPEN, REPAINT, DRAW = ("picture", "change"), ("repaint", "click"), ("draw", "click")


@pytest.fixture
def client(monkeypatch) -> Iterator[Client]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/somewhere/else")
    with app.served(Painter(pause=0.05), port=free_port(), limits=app.Limits(upload_mb=1, waiting=2)) as url:
        yield Client(url)
    assert os.environ["GRADIO_TEMP_DIR"] == "/somewhere/else"


def test_bad_files_get_a_message_and_the_server_lives_on(client, capfd):
    for name, (data, _) in BAD.items():
        began = time.perf_counter()
        answer = client.ask(OPEN, [client.upload(name, data)])
        assert "alert" in answer and Path(name).stem in answer and time.perf_counter() - began < 5, name
    answer = client.ask(OPEN, [client.upload("good.png", encoded(picture()))])
    assert "64 x 64 pixels" in answer and "data:image/png" in answer and "alert" not in answer
    assert "Traceback" not in "".join(capfd.readouterr())


def test_only_loopback_is_listened_on(client):
    port = int(client.url.rsplit(":", 1)[1])
    assert client.url.startswith("http://127.0.0.1:")
    with closing(socket.socket()) as one:
        assert one.connect_ex(("127.0.0.2", port)) != 0  # a server on all addresses would answer here
    with app.served(Painter(), host="0.0.0.0", port=free_port()) as url, closing(socket.socket()) as one:
        assert one.connect_ex(("127.0.0.2", int(url.strip("/").rsplit(":", 1)[1]))) == 0


def test_large_bodies_are_refused_whether_they_say_so_or_not(client):
    files = [("files", (f"{i}.png", bytes(100_000))) for i in range(30)]  # each alone would do
    assert client.http.post(client.url + "/gradio_api/upload", files=files[:5]).status_code == 200
    assert client.http.post(client.url + "/gradio_api/upload", files=files).status_code == 413
    request = client.http.build_request("POST", client.url + "/gradio_api/upload", files=files)
    body = request.read()

    def trickle():
        for begin in range(0, len(body), 1 << 16):
            yield body[begin : begin + (1 << 16)]

    try:
        said = client.http.post(
            request.url, content=trickle(), headers={"content-type": request.headers["content-type"]}
        )
        assert said.status_code >= 400
    except httpx.TransportError:  # the connection was closed
        pass
    assert "64 x 64" in client.ask(OPEN, [client.upload("good.png", encoded(picture()))])


def test_other_files_addresses_and_short_cuts_are_closed(client, tmp_path):
    secret = Path(written(tmp_path, "secret.png", picture()))
    for path in (secret, Path(app.__file__), Path("/etc/passwd")):
        assert client.http.get(f"{client.url}/gradio_api/file={path}").status_code in (403, 404)
        named = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        answer = client.ask(OPEN, [named])
        assert "pixels" not in answer and '"success": false' in answer
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.3)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        named = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        assert "not an address" in client.ask(OPEN, [named])
        assert "not an address" in client.ask(DRAW, [named, *CONTROLS])
        with pytest.raises(TimeoutError):
            listener.accept()
    direct = client.http.post(
        client.url + "/gradio_api/run/predict", json={"data": [4, *CONTROLS], "fn_index": client.jobs[DRAW]}
    )
    assert direct.status_code >= 400


def test_one_job_at_a_time_and_a_queue_with_an_end(client, monkeypatch):
    models = []
    monkeypatch.setattr(Painter, "walk", recording(models))
    joined = [client.join(DRAW, [1, *CONTROLS], f"person{i}") for i in range(6)]
    accepted = [i for i, answer in enumerate(joined) if answer.status_code == 200]
    assert 2 <= len(accepted) < 6
    assert all("full" in answer.text.lower() for answer in joined if answer.status_code != 200)
    for i in accepted:
        assert client.answer(f"person{i}")["success"]
    assert len(models) == len(accepted) and models[0].most_at_once == 1
    assert '"success": true' in client.ask(DRAW, [1, *CONTROLS], "later")


def recording(models: list):
    walk = Painter.walk

    def recorded(self, *arguments):
        models.append(self)
        return walk(self, *arguments)

    return recorded


def test_results_are_files_of_this_server_and_go_with_it(tmp_path):
    with app.served(Painter(), port=free_port()) as url:
        client = Client(url)
        uploaded = client.upload("good.png", encoded(picture()))
        canvas = app.data_url(app.mask_layer(box_mask((64, 64), (0, 0, 20, 20))))
        answer = client.ask(REPAINT, [uploaded, None, canvas, 2, True, *CONTROLS])
        assert "2 variants in" in answer
        found = re.findall(r'"path": "([^"]*repaint-0-\d\.png)"', answer)
        assert len(set(found)) == 2
        fetched = client.http.get(f"{client.url}/gradio_api/file={found[0]}").content
        assert same_outside(picture(), Image.open(io.BytesIO(fetched)), box_mask((64, 64), (0, 0, 20, 20)))
        folder = Path(uploaded["path"]).parents[1]
        assert folder in Path(found[0]).parents and folder.stat().st_mode & 0o077 == 0  # nobody else may look
    assert not folder.exists()


# ----------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the distribution's package")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(browser, tiny_run) -> Iterator[str]:
    with app.served(ImageGenerator.from_pretrained(tiny_run, "cpu"), port=free_port()) as url:
        yield url


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(TIMEOUT_MS)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#picture input[type=file]", state="attached")
    yield page
    page.close()
    assert not errors
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []  # works without a network


def choose(page, path: str, where: str = "#picture") -> str:
    """Give a file to the page, in place of one that is there; returns the status."""
    if page.query_selector(f"{where} button[aria-label='Clear']"):
        page.click(f"{where} button[aria-label='Clear']")
        page.wait_for_selector(f"{where} input[type=file]", state="attached")
        page.wait_for_function("!document.querySelector('#status').innerText.trim()")
    page.set_input_files(f"{where} input[type=file]", path)
    wait_for(page, "pixels|alert", "innerHTML")
    return page.inner_text("#status")


def wait_for(page, words: str, what: str = "innerText", where: str = "#status") -> str:
    page.wait_for_function(f"/{words}/.test(document.querySelector('{where}').{what})")
    return page.inner_text(where)


def paint(page, *points: tuple[float, float]) -> None:
    """A stroke through points given in shares of the canvas's width and height."""
    box = page.locator("#canvas canvas").bounding_box()
    for i, (across, down) in enumerate(points):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=4)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def canvas_mask(page) -> Image.Image:
    """What is painted on the page, white."""
    url = page.evaluate("document.querySelector('#canvas canvas').toDataURL()")
    layer = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    return app.painted(layer.convert("RGBA"))


def press(page, variants: int | None = None, fails: bool = False) -> list[Image.Image]:
    """Press Repaint and fetch what comes."""
    if variants is not None:
        page.fill("#count input[type=number]", str(variants))
        page.keyboard.press("Tab")
    first = "document.querySelector('#variants .grid-wrap img')?.src"
    before = page.evaluate(first)
    page.click("#repaint")
    if fails:
        wait_for(page, "alert", "innerHTML")
        return []
    wait_for(page, "variants? in")
    page.wait_for_function(f"before => {first} && {first} !== before", arg=before)
    return [
        Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body()))
        for image in page.query_selector_all("#variants .grid-wrap img")
    ]


def test_paint_press_and_only_what_was_painted_changes(page, tmp_path):
    image = Image.open("docs/images/digit.png").convert("L").resize((32, 32))
    choose(page, written(tmp_path, "digit.png", image))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.55))
    mask = canvas_mask(page)
    assert mask.size == (32, 32) and 0.03 < np.asarray(mask).mean() / 255 < 0.5
    results = press(page, variants=3)
    assert len(results) == 3
    for result in results:
        assert same_outside(image, result, mask) and changed_inside(image, result, mask) > 0.5
    assert len({result.tobytes() for result in results}) == 3
    assert page.wait_for_selector("#codes img")
    assert press(page)[0].tobytes() == results[0].tobytes()  # the same seed
    page.fill("#seed input", "1")
    page.keyboard.press("Tab")
    assert press(page)[0].tobytes() != results[0].tobytes()


def test_tools_mouse_and_keyboard(page, tmp_path):
    choose(page, written(tmp_path, "picture.png", picture(48, 32)))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.2, 0.5), (0.8, 0.5))
    stroke = np.asarray(canvas_mask(page)) > 0
    assert stroke.shape == (32, 48) and stroke[16, 12:36].all() and not stroke[:4].any()
    page.click("#canvas .rub")
    paint(page, (0.5, 0.2), (0.5, 0.8))
    rubbed = np.asarray(canvas_mask(page)) > 0
    assert not rubbed[16, 24] and rubbed[16, 12] and rubbed.sum() < stroke.sum()
    page.click("#canvas .undo")
    assert np.array_equal(np.asarray(canvas_mask(page)) > 0, stroke)
    page.click("#canvas .clear")
    assert not np.asarray(canvas_mask(page)).any()
    assert press(page, fails=True) == [] and "nothing is painted" in page.inner_text("#status")
    page.click("#canvas .rub")
    page.focus("#canvas canvas")
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    keyed = np.asarray(canvas_mask(page)) > 0
    rows, columns = keyed.nonzero()  # a brush's radius up and to the left of where the mouse was last
    assert 15 < columns.mean() < 23 and 18 < rows.mean() < 25
    assert len(press(page, variants=1)) == 1


def test_picture_and_mask_from_files(page, tmp_path):
    image, mask = picture(40, 56).convert("L"), box_mask((40, 56), (4, 30, 33, 50))
    choose(page, written(tmp_path, "picture.png", image))
    page.click("text=Mask from a file")
    choose(page, written(tmp_path, "mask.png", mask), "#mask")
    wait_for(page, "with its mask")
    page.wait_for_function("props => !document.querySelector('#canvas .stage').hidden")
    for _ in range(100):  # the mask is drawn some time after the canvas appears
        if np.array_equal(canvas_mask(page), mask):
            break
        page.wait_for_timeout(100)
    assert np.array_equal(canvas_mask(page), mask)
    (result,) = press(page, variants=1)
    assert same_outside(image, result, mask) and changed_inside(image, result, mask) > 0.5


def test_bad_files_get_a_message_and_a_good_one_works_after_them(page, tmp_path):
    for name in ("truncated.png", "text.png", "empty.png", "tiny.png", "line.png", "bomb.png"):
        said = choose(page, written(tmp_path, name, BAD[name][0]))
        assert name in said and page.query_selector("#status [role=alert]"), name
        assert page.query_selector("#canvas .stage[hidden]")
    large = tmp_path / "large.png"
    large.write_bytes(encoded(picture()) + bytes(app.DEFAULT_LIMITS.upload_mb << 20))
    page.click("#picture button[aria-label='Clear']")
    page.set_input_files("#picture input[type=file]", large)
    page.wait_for_selector("text=/exceed|too large|maximum/i")
    page.reload()
    assert "64 x 64" in choose(page, written(tmp_path, "good.png", picture()))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.5, 0.5), (0.6, 0.6))
    assert len(press(page, variants=2)) == 2


def test_grid_tab(page):
    page.click("button[role=tab]:has-text('Grid')")
    page.fill("#number input[type=number]", "4")
    page.keyboard.press("Tab")
    page.click("#draw")
    wait_for(page, "4 pictures in", where="#grid-status")
    source = page.wait_for_selector("#grid img").get_attribute("src")
    assert Image.open(io.BytesIO(page.request.get(source).body())).size == (66, 66)
    assert page.wait_for_selector("#grid-codes img")


def test_waiting_stopping_and_being_turned_away_are_said(browser):
    with app.served(Painter(pause=1), port=free_port(), limits=app.Limits(waiting=1)) as url:
        pages = [browser.new_page() for _ in range(3)]
        for page, words in zip(pages, ("Drawing: step", "Waiting for its turn", "did not take this"), strict=True):
            page.set_default_timeout(TIMEOUT_MS)
            page.goto(url)
            page.click("button[role=tab]:has-text('Grid')")
            page.fill("#grid-steps input[type=number]", "100")  # seconds
            page.keyboard.press("Tab")
            page.click("#draw")
            wait_for(page, words, where="#grid-status")
        pages[0].click("#grid-stop")
        wait_for(pages[0], "Stopped", where="#grid-status")
        wait_for(pages[1], "Drawing: step", where="#grid-status")
        for page in pages:
            page.close()
