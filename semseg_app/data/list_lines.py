"""What people write into lists: the lines of published label lists, and lists made of other lists."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from semseg_app.data.listing import Sample
from semseg_app.errors import UserError

_OPERATOR = re.compile(r"\s+([+-])\s+")
_PAIR = re.compile(r"(?P<base>(?:.*[-/_])?)(?P<kind>labeled|unlabeled)")


class Term(NamedTuple):
    """One list within an expression."""

    name: str
    minus: bool
    """Whether its photos are taken away."""


def text_lines(path: Path) -> list[str]:
    """The lines of a text file. UserError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def list_terms(text: str) -> list[Term]:
    """ "train_aug - 1_16-labeled + more" -> its terms, in order; a single term where `text` is a plain name.

    Operators stand between spaces, because names have hyphens in them.
    """
    first, *rest = _OPERATOR.split(text.strip())
    return [Term(first, False), *(Term(name, sign == "-") for sign, name in zip(rest[::2], rest[1::2], strict=True))]


def line_names(entry: str, suffixes: Iterable[str]) -> Iterator[str]:
    """The names under which the photo of a line may be known, the most exact first.

    UniMatch and ST++ write pairs ("JPEGImages/x.jpg SegmentationClass/x.png"), AugSeg, U2PL and PseudoSeg bare stems,
    and all of them Cityscapes' full paths.

    Args:
        entry: a stem, a file name, a path, or the path of a photo and of its mask.
        suffixes: what follows the stem in the names of a dataset's photos ("_leftImg8bit.png").
    """
    entry = normalize("NFC", entry)  # as the stems are
    for text in dict.fromkeys((entry, *entry.split()[:1])):
        path = text.replace("\\", "/")
        stem = re.sub(r"\.\w{2,5}$", "", path)
        stems = [path, *(path.removesuffix(suffix) for suffix in suffixes if path.endswith(suffix)), stem]
        for suffix in suffixes:
            bare = suffix.rpartition(".")[0]
            if bare and stem.endswith(bare):  # "aachen_0_1_leftImg8bit", without .png
                stems.append(stem.removesuffix(bare))
        stems.append(re.sub(r"_gtFine(_\w+)?$", "", stem))
        for known in dict.fromkeys(stems):
            parts = known.split("/")
            yield from ("/".join(parts[start:]) for start in range(len(parts)))


def one_photo(matches: list[Sample], entry: str) -> list[Sample]:
    """Where splits share a photo: the sample whose mask the line names, else that of the first split with a mask.

    Samples of different photos stay as they are: the line does not tell which of them it means.
    """
    if len({sample.image for sample in matches}) != 1:
        return matches
    *_, mask = entry.replace("\\", "/").split() or [""]
    named = [sample for sample in matches if sample.label and f"/{sample.label.as_posix()}".endswith(f"/{mask}")]
    with_mask = [sample for sample in matches if sample.label]
    return (named or with_mask or matches)[:1]


def pair_of(name: str) -> tuple[str, str] | None:
    """("1_16-", "labeled") of "1_16-labeled", ("1_16/", "unlabeled") of "1_16/unlabeled"; None for other names."""
    match = _PAIR.fullmatch(name)
    return (match["base"], match["kind"]) if match else None
