"""Addresses: which are of this machine alone, and what a tcp address stands for.

ipc needs no key: who reaches the socket is let in by the modes of its folder. Everything else can
be reached by others, loopback too, by every user of the machine, and needs CURVE.
"""

import ipaddress
import socket

from distill.protocol.errors import LocalProtocolError

ANY_PORT = "*"
EVERYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104  (names of what the user asked for)


def is_private(endpoint: str) -> bool:
    """Whether only this user, or this process, can reach it."""
    transport, _, address = endpoint.partition("://")
    return transport in ("ipc", "inproc") and bool(address)


def check_keys(endpoint: str, *, has_keys: bool) -> None:
    """Raise LocalProtocolError where keys are missing, or the transport is none of ours."""
    if is_private(endpoint):
        return
    host_and_port(endpoint)
    if not has_keys:
        raise LocalProtocolError(f"refusing {endpoint}: it can be reached by others, without CURVE")


def host_and_port(endpoint: str) -> tuple[str, str]:
    """The two parts of ``tcp://HOST:PORT``; brackets around an IPv6 address are taken off.

    Raises LocalProtocolError for anything else.
    """
    transport, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port == ANY_PORT or (port.isascii() and port.isdigit() and int(port) < 65536)
    if transport != "tcp" or not host or not is_port:
        raise LocalProtocolError(f"{endpoint!r} is no address of the form tcp://HOST:PORT")
    return host, ANY_PORT if port == "0" else port


def to_bind(endpoint: str) -> str:
    """What ZeroMQ shall bind: an address, an interface's name or ``*`` stay, a name is looked up.

    Raises LocalProtocolError for a name that has no address.
    """
    host, port = host_and_port(endpoint)
    if host in EVERYWHERE or _is_interface(host):
        return f"tcp://{host if host != '::' else '[::]'}:{port}"
    return _numeric(host, port)


def to_connect(endpoint: str) -> str:
    """The address to dial. Raises LocalProtocolError if it has none."""
    host, port = host_and_port(endpoint)
    if host in EVERYWHERE or port == ANY_PORT:
        raise LocalProtocolError(
            f"{endpoint} can be listened at, not dialled: name the engine's machine and port"
        )
    return _numeric(host, port)


def is_ipv6(address: str) -> bool:
    """Whether this is ``tcp://[…]:PORT``."""
    return address.startswith("tcp://[")


def published(bound: str, asked: str) -> str:
    """What others shall dial for what was bound: a name that the user gave, or this machine's."""
    host, port = host_and_port(bound)
    name, _ = host_and_port(asked)
    if name in EVERYWHERE:
        name = _own_name()
    elif _is_interface(name):
        name = host
    return f"tcp://[{name}]:{port}" if ":" in name else f"tcp://{name}:{port}"


def _own_name() -> str:
    """This machine's name, where that leads others here, else its address."""
    name = socket.gethostname()
    try:
        address = _look_up(name)
    except OSError:
        address = ""
    if address and not ipaddress.ip_address(address).is_loopback:
        return name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it asks the kernel for the way out
            return str(probe.getsockname()[0])
        except OSError:
            return name


def _is_interface(host: str) -> bool:
    try:
        return socket.if_nametoindex(host) > 0
    except (OSError, ValueError):
        return False


def _numeric(host: str, port: str) -> str:
    try:
        address = _look_up(host)
    except (OSError, UnicodeError) as error:
        raise LocalProtocolError(f"{host} is the name of no machine known here: {error}") from error
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def _look_up(host: str) -> str:
    """An address of a machine, IPv4 if it has one."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return str(found[0][4][0])
