"""What a verb shows of long work, on stderr, so that stdout holds nothing but the answer."""

import logging

from semseg_app.progress import progress_bar as progress_bar
from semseg_app.progress import tracked as tracked


def show_steps(room: str) -> None:
    """Print the steps that a room logs ("semseg_app.export"), a line each, also where stderr is no terminal."""
    log = logging.getLogger(room)
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
