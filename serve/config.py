"""How a server serves: the one set of options that the command line fills, and the server, the app and Ray read."""

import contextlib
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from semseg_app.errors import UserError
from semseg_app.serve.http.api_keys import Keys

_ORIGIN = re.compile(r"(https?)://([^/?#@*:\s\[\]]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}


def check_origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the scheme's own port. UserError for what is no origin."""
    if text == "*":
        return text
    origin = _ORIGIN.fullmatch(text.lower())
    if origin is None:
        raise UserError(f"--cors-origin {text!r}: give an origin such as https://app.example, without a path, or *")
    scheme, host, port = origin.groups()
    with contextlib.suppress(UnicodeError):  # what cannot be a name of a host is never sent
        host = host.encode("idna").decode("ascii")
    return f"{scheme}://{host}" + (f":{port}" if port and int(port) != _PORTS[scheme] else "")


def check_root_path(text: str) -> str:
    """A path that begins with a slash and does not end with one. UserError for any other text."""
    path = text.rstrip("/")
    if path and (not path.startswith("/") or any(character in path for character in " ?#")):
        raise UserError(f"--root-path {text!r}: give the path under which the proxy offers the server, such as /semseg")
    return path


def check_address(text: str | None) -> str | None:
    """An http or https address. UserError for any other text."""
    if text is not None and not text.startswith(("http://", "https://")):
        raise UserError(f"--label-studio-url {text!r}: give an address such as http://localhost:8080")
    return text


class ServeConfig(BaseModel):
    """How a server serves. UserError, or pydantic's ValidationError, for values that cannot be."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    max_requests: int = Field(default=64, ge=1)
    """Concurrent requests per model; more get 429."""
    client_share: float = Field(default=0.75, gt=0, le=1)
    """Fraction of the request slots, and of the job slots, that one API key or one address may have."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds from when an image is here until its answer is ready; then 504."""
    max_batch: int | None = Field(default=None, ge=1)
    """Images per call of an engine; None = 1 on a CPU, which gains little from more, and 8 elsewhere."""
    max_delay_s: float = Field(default=0.005, ge=0)
    """How long an image waits for others to share a call with, and only while others are being decoded."""
    max_pixels: int = Field(default=32_000_000, ge=1)
    """Largest image, width x height, checked on its header before it is decoded."""
    max_bytes: int = Field(default=32 * 2**20, ge=1)
    """Largest request body."""
    body_timeout_s: float = Field(default=20.0, gt=0)
    """Seconds that a request's body may take, beside those that it needs at 50 kB per second; then 408."""

    max_job_bytes: int = Field(default=2**30, ge=1)
    max_job_pixels: int = Field(default=1_000_000_000, ge=1)
    max_jobs: int = Field(default=8, ge=1)
    """Jobs that are handed in or worked on; more get 429."""
    max_job_results: int = Field(default=32, ge=1)
    """Jobs whose result is kept; of more, the oldest goes."""
    keep_job_s: float = Field(default=900.0, gt=0)
    """How long a job's result is kept."""

    keys: Keys | None = None
    """Who may use the server; None = everyone who reaches its port."""
    cors_origins: tuple[Annotated[str, AfterValidator(check_origin)], ...] = ()
    """Other sites whose scripts may use it: `https://app.example`, or `*`."""
    root_path: Annotated[str, AfterValidator(check_root_path)] = ""
    """The path under which a proxy offers this server: `/semseg`."""
    label_studio_url: Annotated[str | None, AfterValidator(check_address)] = None
    """Where the images of Label Studio's tasks may come from; None = they must be inside the tasks."""
    label_studio_token: str | None = Field(default=None, repr=False)
    """Access token of that Label Studio."""

    demo: bool = True
    """Mount the web page at `/`; without it `/` leads to the API's docs."""
    examples: tuple[Path, ...] = ()
    """Photos that the page offers."""
    demo_urls: bool = False
    """Let the page's visitors name the address of a photo, which the server fetches."""
    flag_to: Path | None = None
    """A dataset folder that takes the photos which the page's visitors flag."""
    json_logs: bool = False
    """Log lines of JSON on stderr, one per request among them."""
