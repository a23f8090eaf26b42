"""The systems that are compared, in the order of the tables."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.peers.joblane_peer import JoblanePeer
from tests.bench.peers.peer import Bench, Peer
from tests.bench.peers.titles import TITLES

SYSTEMS: Mapping[str, type[Peer]] = {name: JoblanePeer if name == "joblane" else Peer for name in TITLES}


def open_peer(name: str, bench: Bench, settings: Mapping[str, str] | None = None) -> Peer:
    """Start a system. Raises :class:`PeerError`. ``settings``: environment variables for its program."""
    return SYSTEMS[name](name, bench, settings)
