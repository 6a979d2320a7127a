"""A run that is asked to stop finishes its step first."""

import signal
from types import FrameType


class StopSignal:
    """SIGTERM and Ctrl-C let the running step finish and a checkpoint be written; a second one ends at once."""

    def __init__(self, active: bool):
        self.requested = 0
        self._before = (
            {number: signal.signal(number, self._on) for number in (signal.SIGTERM, signal.SIGINT)} if active else {}
        )

    def _on(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        self.restore()

    def restore(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
