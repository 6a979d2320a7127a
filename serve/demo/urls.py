"""Photos from the web, for servers whose owner allows it: public addresses only, total bytes and total time bounded."""

import asyncio
import ipaddress
import socket
import zlib

import httpx

from semseg_app.errors import UserError

TOTAL_SECONDS = 15.0
"""Time for everything: names, connections, redirects and the body."""
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only public IPv6 addresses (RFC 4291). Outside it are also NAT64 (64:ff9b::/96), IPv4-compatible (::/96) and
site-local (fec0::/10) addresses, some of which `is_global` calls global; the first two hide any IPv4 address."""
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
"""These hide any IPv4 address, too (RFC 3056)."""


def fetch_photo(url: str, max_bytes: int) -> bytes:
    """The bytes behind an http or https address. Blocks for TOTAL_SECONDS at most: call it in a thread.

    UserError when they cannot be had: a name that leads to a private address, more than `max_bytes` after
    decompression, too slow, no such page. It tells nothing about what answers inside the server's network.
    """
    try:
        return asyncio.run(asyncio.wait_for(_fetch(url.strip(), max_bytes), TOTAL_SECONDS))
    except TimeoutError:
        raise UserError(
            f"the photo did not arrive within {TOTAL_SECONDS:g} seconds; download it and drop it here"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, zlib.error):
        raise UserError("this address has no photo that can be fetched; download the photo and drop it here") from None


async def _fetch(url: str, max_bytes: int) -> bytes:
    address = httpx.URL(url)
    # The total time is bounded outside; httpx's own timeouts count single reads, and a slow server never exceeds them.
    async with httpx.AsyncClient(timeout=TOTAL_SECONDS, trust_env=False) as client:
        for _ in range(REDIRECTS + 1):
            answer = await _get(client, address, max_bytes)
            if isinstance(answer, bytes):
                return answer
            address = address.join(answer)
    raise UserError(f"too many redirects (more than {REDIRECTS}); give the photo's direct address")


async def _get(client: httpx.AsyncClient, url: httpx.URL, max_bytes: int) -> bytes | str:
    """The body, or the address that a redirect names."""
    if url.scheme not in PORTS or not url.host:
        raise UserError("an address begins with http:// or https://")
    host = url.host
    # The connection goes to the address that was checked: a name could lead elsewhere the next time it is looked up.
    checked = await asyncio.to_thread(_public_address, host, url.port or PORTS[url.scheme])
    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": "semseg",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }
    request = client.stream("GET", url.copy_with(host=checked), headers=headers, extensions={"sni_hostname": host})
    async with request as response:
        if response.has_redirect_location:
            return str(response.headers["location"])
        response.raise_for_status()
        return await _body(response, max_bytes)


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    """The body, decompressed here: httpx would expand a whole chunk, a thousandfold, before its size is known."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise UserError("this address answers in a compressed form; download the photo and drop it here")
    expand = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: zlib or gzip
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk if expand is None else expand.decompress(chunk, max_bytes + 1 - len(body))
        if len(body) > max_bytes:
            raise UserError(f"the photo has more than {max_bytes / 2**20:g} megabytes")
    if expand is not None and not expand.eof:
        raise zlib.error("the body ends early")
    return bytes(body)


def _public_address(host: str, port: int) -> str:
    """One address of `host`. UserError unless all of them belong to the public internet."""
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if not all(_is_public(address.partition("%")[0]) for address in addresses):
        raise UserError("this address is not on the public internet")
    return sorted(addresses)[0]


def _is_public(text: str) -> bool:
    """Whether an IP address is one that a host on the public internet can have."""
    address = ipaddress.ip_address(text)
    if address.is_multicast or not address.is_global:  # `is_global` alone calls multicast addresses global
        return False
    return address.version == 4 or (address in GLOBAL_UNICAST and address not in SIX_TO_FOUR)
