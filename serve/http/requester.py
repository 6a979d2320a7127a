"""Who sends a request: an API key where the server has any, else an address."""

import ipaddress
from functools import lru_cache

from starlette.types import Scope

from semseg_app.serve.metrics import Caller
from semseg_app.serve.scheduling.admission import Requester

IPV6_NETWORK = 64
"""Bits of an IPv6 address that tell one client from another: whoever has one address has the whole network."""


def requester(caller: Caller, scope: Scope) -> Requester:
    """Who sends the request of an ASGI scope."""
    return Requester(caller, client_of(scope))


def client_of(scope: Scope) -> str:
    """Whose share a request counts in; empty where that is unknown."""
    if name := scope.get("api_key"):
        return f"key {name}"
    client = scope.get("client")
    return _network(client[0]) if client else ""


@lru_cache(maxsize=1024)
def _network(host: str) -> str:
    """An IPv6 address's network; any other address itself."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped:  # all IPv4 clients of a server that listens on :: have addresses of one network
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, IPV6_NETWORK), strict=False))
