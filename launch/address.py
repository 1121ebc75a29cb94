"""Where the other nodes reach this one."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import psutil

from r1mega.types import UserError


def address_for(others: Sequence[str], interface: str | None) -> str:
    """This machine's address, for the nodes of a job.

    interface: whose address it is; None: of the one over which the first of the other nodes is reached. The
    own name is not asked: on many machines it stands for 127.0.1.1. Raises UserError for an unknown one.
    """
    if interface is not None:
        return _address_of(interface)
    if not others:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((socket.gethostbyname(others[0]), 9))  # sends nothing: it only asks for the route
        found: str = probe.getsockname()[0]
    return found


def _address_of(interface: str) -> str:
    known = {
        name: one.address
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    }
    if interface not in known:
        raise UserError(
            f"network.interface = '{interface}': {socket.gethostname()} has {', '.join(sorted(known))}"
        )
    return known[interface]
