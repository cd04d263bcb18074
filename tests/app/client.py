"""The page's requests over HTTP, without a browser."""

import json
import socket
from contextlib import closing

import httpx


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def file_named(path: str) -> dict:
    """A file as the browser names it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


class Client:
    """One visitor. A job is (element id, event), such as ("repaint", "click")."""

    OPEN, REPAINT, GRID = ("picture", "change"), ("repaint", "click"), ("draw", "click")

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.http = httpx.Client(trust_env=False, timeout=20)
        config = self.http.get(self.url + "/config").json()
        self.props = {part["id"]: part["props"] for part in config["components"]}
        self.jobs = {}
        for job in config["dependencies"]:
            for part, event in job["targets"]:
                if part in self.props:
                    self.jobs[self.props[part].get("elem_id"), event] = job

    def upload(self, name: str, data: bytes) -> dict:
        answer = self.http.post(self.url + "/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return file_named(answer.json()[0]) | {"orig_name": name}

    def body(self, job: tuple[str, str], values: dict | None = None, session="one") -> dict:
        """What the browser sends for a job: the page's first values, but `values` by element id."""
        values = values or {}
        parts = [self.props[part] for part in self.jobs[job]["inputs"]]
        data = [values.get(part["elem_id"], part.get("value")) for part in parts]
        return {"data": data, "fn_index": self.jobs[job]["id"], "session_hash": session}

    def join(self, job: tuple[str, str], values: dict | None = None, session="one") -> httpx.Response:
        return self.http.post(self.url + "/gradio_api/queue/join", json=self.body(job, values, session))

    def answer(self, session="one") -> dict:
        with self.http.stream("GET", self.url + f"/gradio_api/queue/data?session_hash={session}") as lines:
            for line in lines.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") in ("process_completed", "close_stream", "unexpected_error"):
                    return message
        raise AssertionError("the stream ended without an answer")

    def ask(self, job: tuple[str, str], values: dict | None = None, session="one") -> str:
        joined = self.join(job, values, session)
        return json.dumps(self.answer(session)) if joined.status_code == 200 else joined.text

    def fetch(self, path: str) -> httpx.Response:
        return self.http.get(f"{self.url}/gradio_api/file={path}")
