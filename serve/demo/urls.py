"""Photos from the web, for a server that was told to fetch them: public addresses only, size and time bounded."""

import ipaddress
import socket

import httpx

from semseg_app.errors import UserError

SECONDS = 10.0
REDIRECTS = 3


def fetch_photo(url: str, max_bytes: int) -> bytes:
    """The bytes behind an http or https address.

    UserError, without a word about what answers inside the server's network, when there are none to be had: a name
    that leads to a private address, too many bytes, too slow, no such page.
    """
    try:
        address = httpx.URL(url.strip())
        for _ in range(REDIRECTS + 1):
            answer = _get(address, max_bytes)
            if isinstance(answer, bytes):
                return answer
            address = address.join(answer)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
        raise UserError("nothing to be fetched at this address; download the photo and drop it here") from None
    raise UserError(f"this address leads on more than {REDIRECTS} times; give the photo's own")


def _get(url: httpx.URL, max_bytes: int) -> bytes | str:
    """The body, or where the address leads."""
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError("an address begins with http:// or https://")
    host = url.host
    # The connection goes to the address that was checked: a name could lead elsewhere the next time it is looked up.
    request = url.copy_with(host=_public_address(host, url.port or {"http": 80, "https": 443}[url.scheme]))
    headers = {"Host": url.netloc.decode("ascii"), "User-Agent": "semseg", "Accept": "image/*"}
    with (
        httpx.Client(timeout=SECONDS, trust_env=False) as client,
        client.stream("GET", request, headers=headers, extensions={"sni_hostname": host}) as response,
    ):
        if response.has_redirect_location:
            return response.headers["location"]
        response.raise_for_status()
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise UserError(f"the photo has more than {max_bytes / 2**20:g} MiB")
        return bytes(body)


def _public_address(host: str, port: int) -> str:
    """One address of `host`. UserError unless all of them belong to the public internet."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in found):
        raise UserError("this address is not on the public internet")
    return sorted(found)[0]
