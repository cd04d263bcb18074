"""Serving the page: the address is checked first, and requests that are too large or name an address are refused."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.page import build_page, resource
from app.service import GenerationService
from app.uploads import DEFAULT_LIMITS, Limits
from common.errors import UserError

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator

SESSIONS = 100  # of browsers whose state gradio keeps


def serve(
    generator: ImageGenerator, host: str = "127.0.0.1", port: int = 7860, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Serve the page until Ctrl-C. Only this machine can reach it unless another `host` is given. Raises as `served`."""
    with served(generator, host, port, limits) as address, suppress(KeyboardInterrupt):
        print(f"the page is at {address} (stop it with Ctrl-C)", flush=True)
        threading.Event().wait()


@contextmanager
def served(
    generator: ImageGenerator, host: str = "127.0.0.1", port: int = 7860, limits: Limits = DEFAULT_LIMITS
) -> Iterator[str]:
    """Serve the page while the context lasts; gives its address. At the end uploads and results are deleted.

    Raises:
        UserError: the address cannot be listened on.
    """
    check_free(host, port)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="smalti-app-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads and results: only of this server, only readable by this user
        service = GenerationService(generator, limits, Path(folder))
        page = build_page(service)
        try:
            page.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False, inbrowser=False,
                quiet=True, prevent_thread_lock=True, max_file_size=f"{limits.upload_mb}mb", footer_links=[],
                run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                css=resource("page.css"), theme=gr.themes.Default(primary_hue="pink"), state_session_capacity=SESSIONS,
                app_kwargs={
                    "middleware": [
                        Middleware(BodyLimit, most=(limits.upload_mb + 1) * 2**20),
                        Middleware(RefuseAddresses),
                    ],
                    "docs_url": None, "redoc_url": None, "openapi_url": None,
                },
            )  # fmt: skip
            yield str(page.local_url)
        finally:
            service.close()
            page.close(verbose=False)
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def check_free(host: str, port: int) -> None:
    """Raise UserError unless a server can listen on `host` and `port`."""
    if not 1 <= port <= 65535:
        raise UserError(f"cannot listen on port {port}: give one from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another with --port or --host"
        ) from error


class TooLargeError(Exception):
    """A body went over its limit."""


class BodyLimit:
    """ASGI middleware: a request whose body has more than `most` bytes is answered by 413."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes while the application reads them."""
        received, answered = 0, False

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                raise TooLargeError
            return message

        async def noting_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, limited_receive, noting_send)
        except TooLargeError:
            if not answered:
                response = PlainTextResponse("too large", status_code=413, headers={"connection": "close"})
                await response(scope, receive, send)


class RefuseAddresses:
    """ASGI middleware: a request that names a file by an address is answered by 400.

    gradio would fetch the address from this machine. The page itself names only files that it has uploaded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body first, then pass it on."""
        if not may_hold_json(scope):
            await self.app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        if names_address(b"".join(message.get("body", b"") for message in messages)):
            await PlainTextResponse("give a file, not an address", status_code=400)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


def may_hold_json(scope: Scope) -> bool:
    """Whether a handler could read a request's body as JSON. Uploads come as forms."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
        return False
    return not Headers(scope=scope).get("content-type", "").startswith("multipart/form-data")


def names_address(body: bytes) -> bool:
    """Whether a JSON body has an address where gradio expects the path of a file."""
    try:
        parts: list[object] = [json.loads(body)]
    except ValueError:
        return False  # not JSON: no handler gets it
    except RecursionError:
        return True
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "://" in str(part.get("path", "")):
                return True
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return False
