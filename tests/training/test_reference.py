"""docs/recipe.md: every key, made of the classes that check a recipe."""

from pathlib import Path

import pytest

from semseg_app.training.recipe import Recipe
from semseg_app.training.reference import reference

PAGE = Path(__file__).parent.parent.parent / "docs" / "recipe.md"


@pytest.fixture(scope="module")
def keys() -> list[tuple[str, str, dict]]:
    """(section, key, its schema), of the JSON schema that editors get."""
    schema = Recipe.model_json_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    return [(name, key, about) for name, section in sections.items() for key, about in section["properties"].items()]


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == reference(), "run: semseg schema --markdown > docs/recipe.md"


def test_every_key_has_a_sentence_for_editors_too(keys):
    assert len(keys) > 200
    for section, key, about in keys:
        if about.keys() == {"$ref"} or "const" in about:  # a section, which describes itself; the name of a method
            continue
        sentence = about.get("description", "")
        assert sentence.endswith((".", ")")), f"{section}.{key}: write a sentence as a docstring below the field"


def test_every_key_is_on_the_page(keys):
    page = PAGE.read_text()
    for section, key, _ in keys:
        if key != "name" or section == "Recipe":
            assert f".{key}` |" in page or f"| `{key}` |" in page, f"{section}.{key}"
    for line in ("| `model.encoder` | `resnet18` |", "| `optimizer.lr` | `0.01` | number above 0 |"):
        assert line in page
