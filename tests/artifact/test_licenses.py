"""Licenses go from weights to model and from teacher to student, and bind where they are not permissive."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from semseg_app.artifact.licenses import decide, encoder_weights
from semseg_app.artifact.lineage import Lineage, Weights
from semseg_app.errors import UserError

RESNET = encoder_weights("resnet18", "imagenet")
SEGFORMER = encoder_weights("mit_b2", "imagenet")


def test_known_encoders():
    assert RESNET.license == "bsd-3-clause"
    assert SEGFORMER.license == "nvidia-source-code-license-segformer"
    assert encoder_weights("resnet50", "swsl").license == "cc-by-nc-4.0"
    assert encoder_weights("somebody-s-own", "imagenet").license is None


@pytest.mark.slow  # importing timm takes seconds
def test_timm_says_its_own() -> None:
    assert encoder_weights("tu-swin_tiny_patch4_window7_224.ms_in1k", "imagenet").license == "mit"
    assert encoder_weights("tu-convnextv2_tiny.fcmae_ft_in1k", "imagenet").license == "cc-by-nc-4.0"


def test_permissive_weights_leave_the_choice():
    assert decide("mit", [RESNET]).id == "mit"
    assert decide("Our Company License", []) == ("other", "our-company-license", None)
    with pytest.raises(UserError, match=r"--license apache-2\.0"):
        decide(None, [RESNET])


def test_others_bind_the_model():
    assert decide(None, [RESNET, SEGFORMER]) == ("other", SEGFORMER.license, SEGFORMER.link)
    swsl = encoder_weights("resnet50", "swsl")
    assert decide(None, [swsl]).id == "cc-by-nc-4.0"
    assert decide(None, [swsl, SEGFORMER]).name == "cc-by-nc-4.0-and-nvidia-source-code-license-segformer"
    with pytest.raises(UserError, match=r"--license apache-2\.0: mit_b2\.imagenet \(encoder\) is under nvidia"):
        decide("apache-2.0", [SEGFORMER])


def test_unknown_ones_are_asked_for():
    with pytest.raises(UserError, match=r"theirs \(encoder\): .*--weights-license"):
        decide("mit", [Weights(name="theirs", role="encoder", license=None)])


def test_a_student_inherits_from_its_teacher_s_encoder(tmp_path: Path) -> None:
    """training_lineage() of a teacher on MiT weights, then of its student, then of the student's student."""
    from semseg_app.training.recipe import Recipe
    from semseg_app.training.run.lineage import training_lineage

    def recipe(**changes: object) -> Recipe:
        return Recipe.model_validate({"name": "x", "data": {"root": "d"}} | changes)

    def folder(name: str, lineage: dict, **provenance: object) -> Path:
        place = tmp_path / name
        place.mkdir()
        labels = {"classes": ["a"], "palette": [[0, 0, 0]]}
        config = {"name": name, "model": {"num_classes": 1, "encoder": "mit_b2"}, "labels": labels}
        config["provenance"] = {"training": {"lineage": lineage}, **provenance}
        (place / "config.json").write_text(json.dumps(config))
        (place / "model.safetensors").write_bytes(name.encode())
        return place

    alone = SimpleNamespace(teacher_model=None)
    random, on_mit, on_resnet = Lineage(), Lineage(weights=[SEGFORMER]), Lineage(weights=[RESNET])
    assert training_lineage(recipe(), alone, random) == Lineage().model_dump()
    teacher = folder("teacher", training_lineage(recipe(), alone, on_mit), hub={"repo": "ann/t"})
    student = folder("student", training_lineage(recipe(), SimpleNamespace(teacher_model=teacher), on_resnet))
    taught = SimpleNamespace(teacher_model=student)
    found = Lineage.model_validate(training_lineage(recipe(), taught, random))
    assert [(one.name, one.role) for one in found.weights] == [
        ("resnet18.imagenet", "encoder of the teacher student"),
        ("mit_b2.imagenet", "encoder of the teacher teacher of the teacher student"),
    ]
    assert [(one.name, one.repo, one.by) for one in found.teachers] == [
        ("student", None, "distillation"),
        ("teacher", "ann/t", "distillation"),
    ]
    assert decide(None, found.weights).name == SEGFORMER.license
