"""Which of the kinds of answer that we have does an Accept header ask for? (RFC 9110, section 12.5.1)"""

from functools import lru_cache


@lru_cache(maxsize=64)
def choose(accept: str | None, offers: tuple[str, ...]) -> str | None:
    """Best offer for an Accept header; ties go to the earlier one. None when it accepts no offer.

    No header, or an empty one, takes anything.
    """
    ranges = [_parse(part) for part in (accept or "*/*").split(",") if part.strip()]
    liked = [(_quality(offer, ranges), offer) for offer in offers]
    best = max(quality for quality, _ in liked)
    return next(offer for quality, offer in liked if quality == best) if best > 0 else None


def _parse(part: str) -> tuple[str, float]:
    """ "image/*;q=0.5" -> ("image/*", 0.5). A quality that is no number counts as 1, as servers commonly do."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, min(1.0, max(0.0, float(value)))
            except ValueError:
                break
    return media, 1.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The quality that the most specific matching range gives to `offer`; 0 when none matches."""
    for pattern in (offer, offer.split("/")[0] + "/*", "*/*"):
        matching = [quality for media, quality in ranges if media == pattern]
        if matching:
            return max(matching)
    return 0.0
