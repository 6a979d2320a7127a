"""SegmentationModel, held against the conventions of huggingface_hub's own mixin."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelHubMixin

from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.hub.model import SegmentationModel


def test_it_is_called_like_any_model_of_the_hub() -> None:
    theirs = inspect.signature(ModelHubMixin.from_pretrained).parameters
    ours = inspect.signature(SegmentationModel.from_pretrained).parameters
    for name, parameter in theirs.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default)
    pushing = inspect.signature(SegmentationModel.push_to_hub).parameters
    assert {"repo_id", "commit_message", "private", "token"} <= pushing.keys()


def test_a_folder_and_a_copy_of_it(model: Path, tmp_path: Path) -> None:
    loaded = SegmentationModel.from_pretrained(model, device="cpu")
    loaded.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match="exists already"):
        loaded.save_pretrained(tmp_path / "copy")
    again = SegmentationModel.from_pretrained(str(tmp_path / "copy"))
    photo = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    for one, other in zip(loaded.predict(photo), again.predict(photo), strict=True):
        assert one.shape == (30, 40)
        np.testing.assert_array_equal(one, other)
    assert again.labels.classes == ["red", "green", "blue"]
    with pytest.raises(ValueError, match=r"uint8 RGB \[H, W, 3\]"):
        loaded.predict(photo[..., 0])
    with pytest.raises(UserError, match="no id on the Hub"):
        SegmentationModel.from_pretrained("not/a/model")


def test_the_address_of_a_page_is_told_as_an_id() -> None:
    for wrong, hint in {
        "https://huggingface.co/ann/street": r"did you mean ann/street\?$",
        "https://huggingface.co/ann/street/tree/v1": r"did you mean ann/street@v1\?$",
        "hf://ann/street": r"did you mean ann/street\?$",
    }.items():
        with pytest.raises(UserError, match=f"no id on the Hub.*{hint}"):
            local_model(wrong)
