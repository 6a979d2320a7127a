"""Pretrained weights from the Hub: there, in the cache, or an error at once."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

from semseg_app.errors import UserError

TIMEOUT_S = 3.0


@contextmanager
def fetched(encoder: str) -> Iterator[None]:
    """Weights of `encoder` are loaded inside. UserError, with the fix, where they cannot be had.

    Where the Hub cannot be reached, its client is told so: it then takes what its cache holds and retries nothing.
    """
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    except (OSError, RuntimeError) as error:  # no network, no such file, a proxy's answer instead of weights
        reason = "the Hub cannot be reached and its cache has no copy" if constants.HF_HUB_OFFLINE else _first(error)
        raise UserError(
            f"model.pretrained: no weights for {encoder}: {reason}. Set model.pretrained=null to start from random "
            "weights, or train once where the Hub can be reached and copy its cache here (HF_HOME)"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _is_reachable(endpoint: str) -> bool:
    """Whether something listens there. Behind a proxy nothing can be known beforehand, and the answer is True."""
    address = urlsplit(endpoint)
    if getproxies() or not address.hostname:
        return True
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
