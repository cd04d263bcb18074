"""Serving the page: its address, its temporary folder, its end by a signal, and the checks before requests reach gradio."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import gradio as gr
from starlette.middleware import Middleware

from app.bodies import BodyLimit, RefuseAddresses, SweepAfterUploads
from app.hosts import HostCheck, allowed_address
from app.page import build_page
from app.resources import resource
from app.service import GenerationService
from app.storage import Storage, temporary_folder
from app.uploads import DEFAULT_LIMITS, Limits
from common.errors import UserError, print_note

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator

SESSIONS = 100  # of browsers whose state gradio keeps


def serve(
    generator: ImageGenerator,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits = DEFAULT_LIMITS,
    allowed: Sequence[str] = (),
) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP. Only this machine can reach it unless another `host` is given.

    Args:
        allowed: see `app.hosts.HostCheck`.

    Raises:
        UserError: as `served`.
    """
    with stopped_by_signals(), suppress(KeyboardInterrupt), served(generator, host, port, limits, allowed) as address:
        if is_all_addresses(host):
            print_note(
                "other machines reach the page under this machine's IP addresses, and under the names that "
                "--allow-host gives; everybody who reaches it can use it"
            )
        print(f"the page is at {address} (stop it with Ctrl-C)", flush=True)
        threading.Event().wait()


@contextmanager
def served(
    generator: ImageGenerator,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits = DEFAULT_LIMITS,
    allowed: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the page while the context lasts; gives its address. At the end uploads and results are deleted.

    Raises:
        UserError: the address cannot be listened on, or one of `allowed` is no host.
    """
    check_free(host, port)
    for name in allowed:
        allowed_address(name)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with temporary_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # uploads and results: only of this server
        storage = Storage(folder, limits)
        service = GenerationService(generator, limits, storage)
        page = build_page(service)
        try:
            page.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False, inbrowser=False,
                quiet=True, prevent_thread_lock=True, max_file_size=f"{limits.upload_mb}mb", footer_links=[],
                run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                css=resource("page.css"), theme=gr.themes.Default(primary_hue="pink"), state_session_capacity=SESSIONS,
                app_kwargs={
                    "middleware": [
                        Middleware(HostCheck, host=host, names=allowed),
                        Middleware(BodyLimit, most=(limits.upload_mb + 1) * 2**20, together=limits.uploads_mb * 2**20),
                        Middleware(RefuseAddresses),
                        Middleware(SweepAfterUploads, storage=storage),
                    ],
                    "docs_url": None, "redoc_url": None, "openapi_url": None,
                },
            )  # fmt: skip
            loopback = "[::1]" if ":" in host else "localhost"
            yield f"http://{loopback}:{port}/" if is_all_addresses(host) else str(page.local_url)
        finally:
            service.close()
            page.close(verbose=False)
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """While the context lasts, SIGTERM and SIGHUP raise KeyboardInterrupt once, as Ctrl-C does.

    Their default action would end the process at once, and leave uploads and results behind.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        for other in changed:
            signal.signal(other, signal.SIG_IGN)  # a second signal must not interrupt the deletion
        raise KeyboardInterrupt

    changed = [number for number in numbers if before[number] == signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def is_all_addresses(host: str) -> bool:
    """Whether a server on `host` can be reached under every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


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
