"""The second fence of a replay: refuse connections that do not go through an HTTP library that vcrpy patches.

In replay vcrpy answers before a socket is opened, so whatever connects has bypassed it. The fence patches
functions and uses no audit hook: a hook cannot be removed again, and it doubles the cost of every
`copy.deepcopy`, for example.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_tokenbudget.errors import ReplayMiss

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_PATCHED: tuple[tuple[Any, str], ...] = (
    *((socket.socket, name) for name in ("connect", "connect_ex", "sendto")),
    *((socket, name) for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex")),
)


class NetworkGuard:
    """Refuse, while it is open, every connection and name lookup that leaves this machine.

    Loopback, Unix sockets and this machine's own name stay free, and so do `allowed_hosts`: names, addresses
    or networks (`db.internal`, `10.0.0.7`, `172.18.0.0/16`). A refused call raises ReplayMiss at once, which
    `except Exception` does not catch. `refusals` keeps the refusals in order, for code that swallows even
    that. It works for the whole process; guards and other blockers of the network may open and close in any
    order.
    """

    def __init__(self, test: str, allowed_hosts: Sequence[str] = ()) -> None:
        self.refusals: list[str] = []
        self._test = test
        self._allowed_hosts = (socket.gethostname(), *allowed_hosts)
        self._names = {"localhost", *(host.lower() for host in self._allowed_hosts)}
        self._open = False
        self._wrappers: list[tuple[Any, str, Callable[..., Any]]] = []

    def __enter__(self) -> NetworkGuard:
        self._open = True
        for owner, name in _PATCHED:
            wrapper = self._guarded(name, getattr(owner, name))
            self._wrappers.append((owner, name, wrapper))
            setattr(owner, name, wrapper)
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        for owner, name, wrapper in self._wrappers:
            if getattr(owner, name) is wrapper:  # else other code wraps it: it stays and passes on
                setattr(owner, name, _behind(wrapper))
        self._wrappers.clear()

    def _guarded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        lookup, sends = name.startswith("get"), name == "sendto"

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._open and lookup:
                self._check_lookup(*args, **kwargs)
            elif self._open:
                self._check_connection(*args, sends=sends)
            return original(*args, **kwargs)

        wrapper.__dict__["guard"] = self
        return wrapper

    def _check_lookup(self, host: Any = None, *_: Any, **__: Any) -> None:
        text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if not text or _ip_address(text) or self._is_free(text):
            return
        self._refuse("look up", text)

    def _check_connection(self, sock: socket.socket, *args: Any, sends: bool) -> None:
        address = args[-1] if args else None  # last, since `sendto` may have flags before it
        if sock.family not in _INTERNET or not isinstance(address, tuple) or not address:
            return
        if not sends and sock.type == socket.SOCK_DGRAM:
            return  # a datagram `connect` sends nothing; programs find out their own address this way
        host = str(address[0])
        ip = _ip_address(host)
        if self._is_free(host) if ip is None else self._is_allowed(ip):
            return
        self._refuse("connect to", f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}")

    def _is_free(self, name: str) -> bool:
        name = name.lower().rstrip(".")
        return name in self._names or name.endswith(".localhost")

    def _is_allowed(self, ip: _Address) -> bool:
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return (
            ip.is_loopback or ip.is_unspecified or any(ip in network for network in self._allowed_networks())
        )

    def _allowed_networks(self) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Yield the networks that the allowed hosts stand for.

        Names are looked up, which happens only when code connects to a foreign address.
        """
        for host in self._allowed_hosts:
            try:
                yield ipaddress.ip_network(host, strict=False)
            except ValueError:
                with contextlib.suppress(OSError):
                    for *_, address in socket.getaddrinfo(host, None):
                        yield ipaddress.ip_network(str(address[0]).partition("%")[0])

    def _refuse(self, verb: str, host: str) -> None:
        refusal = (
            f"{self._test} tried to {verb} {host} during replay, where nothing reaches the network. "
            "If this is a model call, it goes past the HTTP libraries that can be replayed: give its client "
            "one of them, or use the token_budget_proxy fixture. "
            "If the scenario needs the host, add it to allowed_hosts in [tool.tokenbudget]."
        )
        if refusal not in self.refusals:
            self.refusals.append(refusal)
        raise ReplayMiss(refusal)


def _behind(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a closed guard's wrapper wraps, through wrappers of guards that closed before it."""
    original: Callable[..., Any] = wrapper.__wrapped__  # type: ignore[attr-defined]
    guard = getattr(original, "guard", None)
    return _behind(original) if isinstance(guard, NetworkGuard) and not guard._open else original


def _ip_address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
