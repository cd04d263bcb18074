"""Checks of request bodies before gradio reads them: their size, addresses in place of files, room for uploads."""

from __future__ import annotations

import json

import anyio
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.storage import Storage


class RefusedError(Exception):
    """A body goes over a limit.

    Attributes:
        status: of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BodyLimit:
    """ASGI middleware: limits the bytes of bodies, so that requests fill neither memory nor disk.

    Args:
        app: the application.
        most: bytes of one body; a request with more is answered by 413.
        together: bytes of all bodies that are being received; the request that goes beyond is answered by 503.
    """

    def __init__(self, app: ASGIApp, most: int, together: int) -> None:
        self.app, self.most, self.together = app, most, together
        self.receiving = 0  # bytes of the requests that are not yet answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes while the application reads them."""
        received, answered = 0, False

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            length = len(message.get("body", b""))
            received += length
            self.receiving += length
            if received > self.most:
                raise RefusedError("too large", 413)
            if self.receiving > self.together:
                raise RefusedError("too many uploads at once: try again", 503)
            return message

        async def noting_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, limited_receive, noting_send)
        except RefusedError as error:
            if not answered:
                response = PlainTextResponse(str(error), status_code=error.status, headers={"connection": "close"})
                await response(scope, receive, send)
        finally:
            self.receiving -= received


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


class SweepAfterUploads:
    """ASGI middleware: deletes the oldest files of the storage where an upload went over its limits."""

    def __init__(self, app: ASGIApp, storage: Storage) -> None:
        self.app, self.storage = app, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then sweep. gradio has moved the upload to its place by then."""
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http" and scope["path"].endswith("/upload"):
                await anyio.to_thread.run_sync(self.storage.sweep)
