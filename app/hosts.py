"""Which addresses the page answers under: a defence against DNS rebinding and against requests of other pages.

Every page that a person visits can send requests to a server on their machine. A name that an attacker's DNS server resolves
to 127.0.0.1 even lets it read the answers. The Host header then holds that name, and the Origin header the page's address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from common.errors import UserError

DEFAULT_PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"[a-z0-9._-]+")


class Address(NamedTuple):
    """A host name or IP address, in lower case without brackets, and a port; None where none is given."""

    name: str
    port: int | None


def split_address(text: str) -> Address:
    """The address of "NAME", "NAME:PORT", "[IPV6]" or "[IPV6]:PORT". Raises ValueError for anything else."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or "@" in text or text.endswith(":"):
        raise ValueError(f"{text} is not a host with or without a port")
    if ":" in parts.hostname:
        return Address(str(ipaddress.IPv6Address(parts.hostname)), parts.port)
    if not NAME.fullmatch(parts.hostname):
        raise ValueError(f"{parts.hostname} is not a host name")
    return Address(parts.hostname, parts.port)


def allowed_address(text: str) -> Address:
    """The address of a value of --allow-host. Raises UserError where it is none."""
    try:
        return split_address(text)
    except ValueError as error:
        raise UserError(
            f"--allow-host takes a name with or without a port, such as studio.example or localhost:8000, got '{text}'"
        ) from error


class HostCheck:
    """ASGI middleware: a request under an address that is not allowed, or of another page, is answered by 403.

    Allowed are `host`, the address that the connection arrived at, `localhost` where that is a loopback address, and `names`.
    An Origin header must name an allowed address too. Programs other than browsers send none.

    Args:
        app: the application.
        host: the host that the server was told to listen on.
        names: further hosts; one without a port is allowed with every port.

    Raises:
        UserError: one of `names` is not a host.
    """

    def __init__(self, app: ASGIApp, host: str, names: Sequence[str]) -> None:
        self.app, self.host = app, host.lower()
        with suppress(ValueError):  # a name
            self.host = str(ipaddress.ip_address(host))
        self.names = {allowed_address(name) for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        problem = self.problem(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, problem)(scope, receive, send)  # before it is accepted: answered by 403
        else:
            await PlainTextResponse(f"{problem}\n", status_code=403)(scope, receive, send)

    def problem(self, scope: Scope) -> str | None:
        """One line that says why a request is refused, None for one that is allowed."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or len(origins) > 1:
            return "give one Host header and at most one Origin header; see --allow-host"
        with suppress(ValueError):
            host = split_address(hosts[0])
            if not self.allows(host, DEFAULT_PORTS["http"], scope):
                return f"this page is not served as {hosts[0]}: start it with --allow-host {hosts[0]}"
            if not origins:
                return None
            scheme, separator, rest = origins[0].partition("://")
            origin = split_address(rest)
            if separator and scheme in DEFAULT_PORTS and self.allows(origin, DEFAULT_PORTS[scheme], scope):
                return None
            return f"requests of {origins[0]} are refused: start the page with --allow-host {rest}"
        return "the Host or Origin header does not name a host; see --allow-host"

    def allows(self, address: Address, default_port: int, scope: Scope) -> bool:
        """Whether the page may be asked under an address, over the connection of `scope`."""
        if address in self.names or Address(address.name, None) in self.names:
            return True
        local, port = scope["server"]
        if (address.port or default_port) != port:
            return False
        ip = ipaddress.ip_address(local)
        ip = getattr(ip, "ipv4_mapped", None) or ip  # how a socket for both families names an IPv4 address
        return address.name in {str(ip), "localhost" if ip.is_loopback else "", self.host}
