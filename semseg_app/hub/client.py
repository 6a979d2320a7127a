"""The client of the Hub, with patience where it helps and one clear line where it does not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from semseg_app.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
TRANSIENT = (408, 429, 500, 502, 503, 504)
STALLED = 300.0
"""Seconds without a byte after which a connection counts as lost; the client itself would wait for ever."""

T = TypeVar("T")


def api(token: str | bool | None = None) -> "HfApi":
    """The client. `token`: as huggingface_hub takes it; None = the one of `hf auth login` or HF_TOKEN."""
    from huggingface_hub import HfApi

    import semseg_app

    return HfApi(token=token, library_name="semseg_app", library_version=semseg_app.__version__)


def require_token(token: str | bool | None, repo: str) -> None:
    """UserError where there is no token to write with."""
    from huggingface_hub import get_token

    if not (token if isinstance(token, str) else get_token()):
        raise UserError(f"{repo}: writing to the Hub needs a token; run `hf auth login`, or set HF_TOKEN")


def patiently(attempt: Callable[[], T]) -> T:
    """Call again where the Hub stumbled (5xx, a lost connection). `attempt` must be safe to repeat as a whole."""
    import httpx2
    from huggingface_hub import get_session

    for wait in (*WAITS, None):
        get_session().timeout = httpx2.Timeout(STALLED, connect=15)
        try:
            return attempt()
        except Exception as error:
            if wait is None or not _is_transient(error):
                raise
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _is_transient(error: BaseException) -> bool:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled | httpx2.ConnectError):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    if isinstance(error, httpx2.TransportError):
        return True
    cause = error.__cause__
    return cause is not None and _is_transient(cause)


@contextmanager
def explained(repo: str, revision: str | None = None, kind: str = "model") -> Iterator[None]:
    """Turn what the client raises into one line that names the repository and the fix."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error
        while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):  # of an upload's threads
            cause = cause.__cause__
        line = _explain(cause, repo, revision, kind)
        if line is None:
            raise
        raise UserError(line) from error


def _explain(error: Exception, repo: str, revision: str | None, kind: str) -> str | None:
    """The line; None for what the client does not raise on purpose."""
    import httpx2
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            page = _page(repo, kind)
            return f"{repo}: gated; ask for access on {page}, then `hf auth login` (or HF_TOKEN) as that user"
        case errors.RepositoryNotFoundError():
            return (
                f"{repo}: the Hub has no such {kind}, or it is private and your token may not see it; check the name, "
                "or run `hf auth login`"
            )
        case errors.RevisionNotFoundError():
            return f"{repo}: has no revision {revision or 'main'} (any more); see {_page(repo, kind)}/commits/main"
        case errors.HFValidationError():
            return f"{repo}: not a repository id; write user/name, of letters, digits, -, _ and ."
        case errors.HfHubHTTPError():
            return f"{repo}: {_refusal(error)}"
        case errors.RevisionResolutionError() | errors.LocalEntryNotFoundError():
            return _not_in_the_cache(error, repo, revision)
        case errors.OfflineModeIsEnabled():
            return f"{repo}: HF_HUB_OFFLINE is set; unset it to reach the Hub"
        case httpx2.HTTPError():
            return (
                f"{repo}: the connection to {_endpoint()} failed ({_first_line(error)}); check the network and run "
                "again, what was transferred is kept"
            )
        case ValueError():
            return f"{repo}: the Hub refused it: {_first_line(error)}"
    return None


def _refusal(error: Exception) -> str:
    """Why a request was refused, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = " ".join((error.server_message or "").split()) or "no reason given"
    if status == 401:
        return f"your token is not valid ({said}); run `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return f"your token may not do that ({said}); use a write token, and a name under your own user or organization"
    if status == 412:
        return "somebody else pushed at the same moment; look at their commit and run again"
    if status == 429:
        return "too many requests for now; wait some minutes and run again"
    if status >= 500:
        return f"the Hub is out of order (status {status}); run again later, what was uploaded is kept"
    return f"the Hub refused it (status {status}: {said})"


def _not_in_the_cache(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub.errors import HfHubHTTPError, IncompleteSnapshotError, OfflineModeIsEnabled

    what = f"{repo}@{revision}" if revision else repo
    state = "only half in the cache" if isinstance(error, IncompleteSnapshotError) else "not in the cache"
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return f"{what}: {_refusal(cause)}"
    if isinstance(cause, OfflineModeIsEnabled) or cause is None:
        return f"{what}: {state}, and HF_HUB_OFFLINE or offline use forbids to ask the Hub; fetch it online"
    return f"{what}: {state}, and {_endpoint()} cannot be reached ({_first_line(cause)}); check the network"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _page(repo: str, kind: str) -> str:
    return f"{_endpoint()}/{'' if kind == 'model' else f'{kind}s/'}{repo}"


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
