"""The masks that a labeling configuration of Label Studio asks for."""

from typing import NamedTuple
from xml.etree import ElementTree

from starlette.exceptions import HTTPException

MAX_CHARACTERS = 200_000
TAGS = ("BrushLabels", "BitmaskLabels")


class Control(NamedTuple):
    """`<BrushLabels name=... toName=...>` or `<BitmaskLabels ...>` over `<Image name=... value="$key">`."""

    tag: str
    """One of TAGS."""
    name: str
    image: str
    """The name of the image's tag."""
    key: str
    """The field of a task's data that holds the image."""
    labels: dict[str, str]
    """Name of a class in lower case: a label's value, its alias or one of its predicted values -> what results must
    call the label."""

    def label_of(self, class_name: str) -> str | None:
        """What results call the label of that name, whatever its case; None when the control has no such label."""
        return self.labels.get(class_name.lower())


def parse_config(text: str) -> list[Control]:
    """All controls of a configuration that take masks. HTTPException 422 when it has none, or is not XML."""
    # No definitions of entities: a few lines of them can stand for gigabytes.
    if "<!DOCTYPE" in text or "<!ENTITY" in text or len(text) > MAX_CHARACTERS:
        raise HTTPException(422, "the labeling configuration is too long, or defines entities; neither is read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise HTTPException(422, f"the labeling configuration is not XML: {error}") from None
    images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
    controls = []
    for tag in root.iter():
        image = tag.get("toName", "")
        value = images.get(image, "")
        if tag.tag in TAGS and value.startswith("$"):
            controls.append(Control(tag.tag, tag.get("name", ""), image, value[1:], _labels(tag)))
    if not controls:
        raise HTTPException(
            422,
            f"the labeling configuration has no {' or '.join(TAGS)} over an Image with a value such as $image; "
            "add one whose labels have the model's class names",
        )
    return controls


def _labels(control: ElementTree.Element) -> dict[str, str]:
    """If a label has an alias, Label Studio accepts only the alias in results. The first of two equal names wins, and
    `predicted_values`, the classes that Label Studio's own backends take for a label, before all other names.
    """
    named: list[tuple[str, str]] = []
    predicted: list[tuple[str, str]] = []
    for tag in control.iter("Label"):
        value, alias = tag.get("value", ""), tag.get("alias", "")
        named += [(value, alias or value), (alias, alias or value)]
        predicted += [(name, alias or value) for name in tag.get("predicted_values", "").split(",")]
    labels: dict[str, str] = {}
    for name, label in (*predicted, *named):
        if name.strip():
            labels.setdefault(name.strip().lower(), label)
    return labels
