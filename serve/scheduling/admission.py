"""Admission: who gets a request slot (else 429), how long an answer may take (else 504), and that work ends when its
client has gone.

One model answers no more requests at once than `most`, and no more than it can answer in time at the speed that it has
shown: a request that would wait in vain is refused at once. The forecast counts work, not requests: a small image is
one unit, a large one many. No client alone gets all slots.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from semseg_app.serve.metrics import Caller, Metrics

FORECAST_MARGIN = 0.65
"""Fraction of the timeout that the forecast may fill: it is an average over images of mixed sizes."""
REMEMBERED_UNITS = 50.0
"""The speed is that of the last answers: those before so many units count a third, a single unit being an image of the
warm-up's size."""
USUAL_WEIGHT = 0.1
"""How much one image moves the running average of their sizes."""

T = TypeVar("T")


class Overloaded(Exception):
    """No request slot is free. The HTTP API answers 429 with Retry-After."""

    def __init__(self, retry_after_s: int):
        super().__init__(f"too many requests are waiting; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Exception):
    """The answer was not ready in time. The HTTP API answers 504."""


class Requester(NamedTuple):
    """Who sends a request."""

    caller: Caller = "api"
    """By which interface, for the metrics."""
    client: str = ""
    """Whose share of the slots it counts in: an API key or an address. Empty = no share is counted."""


class _Work:
    """Slots and units of work: of all requests, of one client, or of one request."""

    def __init__(self, slots: int = 0, units: float = 0.0):
        self.slots = slots
        self.units = units

    def add(self, other: "_Work", sign: int) -> None:
        self.slots += sign * other.slots
        self.units += sign * other.units


class _Answered:
    """What was answered lately, and the seconds that it took: sums in which the past fades.

    Not an average of each image's own speed: beside small images a large one seems to take no time when it is done.
    """

    def __init__(self, units: float = 0.0, seconds: float = 0.0):
        self._units = units
        self._seconds = seconds

    @property
    def seconds_per_unit(self) -> float:
        """Seconds that one unit of work takes under load; 0 = unknown."""
        return self._seconds / self._units if self._units else 0.0

    def add(self, units: float, seconds: float) -> None:
        fades = math.exp(-units / REMEMBERED_UNITS)
        self._units = self._units * fades + units
        self._seconds = self._seconds * fades + seconds


class Admission:
    """The request slots of one model, or the job slots of a server.

    `admit` belongs into the event loop.

    Args:
        metrics: where admitted and refused requests are counted.
        most: slots.
        client_share: fraction of the slots, and of the forecast, that one client may have, 0 to 1.
        timeout_s: seconds until an answer is late; None = no forecast and no deadline.
        retry_after_s: what a refused client is told where there is no forecast.
    """

    def __init__(
        self, metrics: Metrics, most: int, client_share: float, timeout_s: float | None, retry_after_s: int = 1
    ):
        self.metrics = metrics
        self.timeout_s = timeout_s
        self._answered = _Answered()
        self._pixels_per_unit = 640.0 * 480.0
        """An image of so many pixels, or fewer, is one unit of work."""
        self._most = most
        self._client_share = client_share
        self._most_of_client = max(1, math.floor(most * client_share))
        self._retry_after_s = retry_after_s
        self._usual_units = 1.0
        """Running average of the units that an image turned out to be."""
        self._inside = _Work()
        self._of_client: dict[str, _Work] = {}
        self._last_answer = 0.0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._inside.slots

    def expect_speed(self, seconds: float, pixels: int) -> None:
        """Start the forecast: an image of so many pixels, which counts as one unit, took so many seconds."""
        with self._lock:
            self._answered = _Answered(1.0, seconds)
            self._pixels_per_unit = float(pixels)

    def would_refuse(self, who: Requester) -> bool:
        """Whether `who` would get no slot now."""
        with self._lock:
            if self._inside.slots >= self._most or self._is_share_used(who.client):
                return True
            return self._inside.slots > 0 and self._is_late(self._usual_units, who.client)

    def check(self, model: str, who: Requester) -> None:
        """Overloaded, and counted as refused, when `who` would get no slot now."""
        if self.would_refuse(who):
            raise self._refusal(model)

    def admit(self, model: str, who: Requester) -> "RequestSlot":
        """A slot, to be used as a context manager. Overloaded, and counted as refused, when `who` gets none."""
        self.check(model, who)
        self.metrics.admitted(model, who.caller)
        work = _Work(1, self._usual_units)
        self._count(who.client, work, 1)
        return RequestSlot(self, model, who.client, work)

    def expect(self, model: str, client: str, work: _Work, pixels: float, in_tiles: bool) -> None:
        """An admitted image turns out to have so many pixels. Overloaded when it cannot be answered in time."""
        units = max(1.0, pixels / self._pixels_per_unit)
        with self._lock:
            more = units - work.units
            others = units if in_tiles else 0.0  # after each of its tiles another image has its turn
            is_late = self._inside.slots > 1 and more + others > 0 and self._is_late(more + others, client)
        if is_late:
            raise self._refusal(model)
        if work.slots:  # else its client has gone meanwhile
            self._count(client, _Work(0, more), 1)
            work.units = units

    def leave(self, client: str, work: _Work) -> None:
        """A request is answered, or its client has gone."""
        self._count(client, work, -1)
        work.slots = 0

    def learn(self, work: _Work, began: float) -> None:
        """One image was answered. Between two answers under load lies the time of one, whatever it was spent on."""
        now = time.perf_counter()
        with self._lock:
            self._answered.add(work.units, now - max(self._last_answer, began))
            self._last_answer = now
            self._usual_units += (work.units - self._usual_units) * USUAL_WEIGHT

    def _is_share_used(self, client: str) -> bool:
        return client in self._of_client and self._of_client[client].slots >= self._most_of_client

    def _is_late(self, units: float, client: str) -> bool:
        """Whether so much more work would be answered too late, or would be more than the client's share."""
        if self.timeout_s is None:
            return False
        allowed = self.timeout_s * FORECAST_MARGIN
        seconds_per_unit = self._answered.seconds_per_unit
        if (self._inside.units + units) * seconds_per_unit > allowed:
            return True
        share = self._of_client.get(client)
        return (
            share is not None and (share.units + units) * self._answered.seconds_per_unit > allowed * self._client_share
        )

    def _refusal(self, model: str) -> Overloaded:
        self.metrics.rejected(model, "overloaded")
        if self.timeout_s is None:
            return Overloaded(self._retry_after_s)
        return Overloaded(max(1, math.ceil(self._inside.units * self._answered.seconds_per_unit)))

    def _count(self, client: str, work: _Work, sign: int) -> None:
        with self._lock:
            self._inside.add(work, sign)
            if client:
                share = self._of_client.setdefault(client, _Work())
                share.add(work, sign)
                if not share.slots:
                    del self._of_client[client]


class RequestSlot:
    """One admitted request, as a context manager in the event loop. It may answer several images, one by one."""

    def __init__(self, admission: Admission, model: str, client: str, work: _Work):
        self._admission = admission
        self._model = model
        self._client = client
        self._work = work

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the slot back; the first call counts."""
        if self._work.slots:
            self._admission.leave(self._client, self._work)

    def expect(self, pixels: float, in_tiles: bool) -> None:
        """The size of the image is known, and whether it is done in tiles. Any thread.

        Overloaded when that much cannot be answered in time.
        """
        self._admission.expect(self._model, self._client, self._work, pixels, in_tiles)

    async def answer_of(self, work: "Future[T]", began: float) -> T:
        """Wait for `work`, which began at that time of `perf_counter`; it is cancelled when the client goes.

        DeadlineExceeded, and `work` is cancelled, when it is not done in time. Both ends are counted.
        """
        admission = self._admission
        try:
            async with asyncio.timeout(admission.timeout_s):
                answer = await asyncio.wrap_future(work)
        except TimeoutError:
            admission.metrics.rejected(self._model, "deadline")
            raise DeadlineExceeded(f"no answer within {admission.timeout_s:g} s; try again later") from None
        except asyncio.CancelledError:
            admission.metrics.rejected(self._model, "disconnected")
            raise
        finally:
            del work  # it holds the error, whose traceback holds this frame
        admission.learn(self._work, began)
        return answer


class RateLimit:
    """Requests per minute of each API key: a full minute's allowance may come at once, then it refills evenly.

    Args:
        per_minute: requests.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self._per_minute = per_minute
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        """Name -> requests left, and when that was."""

    def take(self, name: str) -> int:
        """Count one request: 0 if it is allowed, else the seconds to wait."""
        now = self._clock()
        left, when = self._left.get(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - when) * self._per_minute / 60)
        if left < 1:
            self._left[name] = left, now
            return math.ceil((1 - left) * 60 / self._per_minute)
        self._left[name] = left - 1, now
        return 0
