"""Where a surface listens: only for this machine unless its visitors must prove who they are."""

import ipaddress
import socket

from twofold.types import TwofoldError


def check(host: str, port: int, locked: bool, remedy: str) -> None:
    """Raise TwofoldError for a host that others reach and no lock on it, and for a port that cannot be had.

    remedy: what locks it. A server would say so only in a long traceback, after the model has loaded.
    """
    if not (locked or is_loopback(host)):
        raise TwofoldError(f"{host} is open to others: {remedy}, or keep --host 127.0.0.1")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise TwofoldError(f"cannot listen on {host}:{port} ({error}): choose another --port") from None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host; a name other than localhost counts as open."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
