"""The address that a process listens on."""

from __future__ import annotations

import socket

from app.settings import Settings


def bound(settings: Settings, *, shared: bool) -> socket.socket:
    """A socket with the address of the settings, not yet listening. ``shared`` ones may stand beside each other.

    Raises OSError that names the address.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            # Each worker listens for itself and the kernel deals connections out; one socket for all would give most
            # of a burst to whoever wakes first.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return taken


def shown(host: str) -> str:
    """``host`` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
