"""What a labeling configuration of Label Studio says about brushes."""

from typing import NamedTuple
from xml.etree import ElementTree

from starlette.exceptions import HTTPException

MAX_CHARACTERS = 200_000


class Brush(NamedTuple):
    """`<BrushLabels name=... toName=...>` over `<Image name=... value="$key">`."""

    name: str
    image: str
    """The name of the image's tag."""
    key: str
    """Where in a task's data the image is."""
    labels: dict[str, str]
    """Lower case -> as written."""

    def label_of(self, class_name: str) -> str | None:
        """The label of that name, whatever its case; None when there is none."""
        return self.labels.get(class_name.lower())


def parse_config(text: str) -> Brush:
    """The first brush of a configuration. HTTPException 422 when it has none, or is not XML."""
    # No definitions of entities: a few lines of them can stand for gigabytes.
    if "<!DOCTYPE" in text or "<!ENTITY" in text or len(text) > MAX_CHARACTERS:
        raise HTTPException(422, "the labeling configuration is too long, or defines entities; neither is read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise HTTPException(422, f"the labeling configuration is not XML: {error}") from None
    images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
    for tag in root.iter("BrushLabels"):
        value = images.get(tag.get("toName", ""), "")
        if value.startswith("$"):
            labels = {written.lower(): written for label in tag.iter("Label") if (written := label.get("value"))}
            return Brush(tag.get("name", ""), tag.get("toName", ""), value[1:], labels)
    raise HTTPException(422, "the labeling configuration has no BrushLabels over an Image with a value like $image")
