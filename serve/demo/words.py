"""What the page says when something fails: plain sentences, for people who do not program."""

import logging

from semseg_app.errors import UserError
from semseg_app.inference.decode import BrokenImage, ImageTooLarge, UnsupportedImage
from semseg_app.serve.scheduling.admission import DeadlineExceeded, Overloaded

log = logging.getLogger("semseg.serve")


def in_plain_words(error: Exception) -> str:
    """A whole sentence about a failure. What nothing was prepared for goes to the log, whole, and is not shown."""
    match error:
        case ImageTooLarge():
            return f"This photo is too large: {error}."
        case UnsupportedImage():
            return "This file is not a photo that can be read here. Save it as an ordinary JPEG or PNG and try again."
        case BrokenImage():
            return (
                "This photo is damaged or incomplete. Open it on your computer, save it again, then send the new file."
            )
        case Overloaded():
            return f"Many people use this page at the moment. Try again in {error.retry_after_s} seconds."
        case DeadlineExceeded():
            return "The answer took too long. Try again in a moment, or send a smaller photo."
        case UserError():
            text = str(error)
            return f"{text[:1].upper()}{text[1:]}."
    log.error("the page could not answer", exc_info=error)
    return "Something went wrong on this server. Its owner finds the reason in the log."
