"""Licences go from weights to model and from teacher to student, and bind where they are not permissive."""

import pytest

from semseg_app.errors import UserError
from semseg_app.licences import decide, encoder_weights
from semseg_app.lineage import Weights

RESNET = encoder_weights("resnet18", "imagenet")
SEGFORMER = encoder_weights("mit_b2", "imagenet")


def test_known_encoders():
    assert RESNET.license == "bsd-3-clause"
    assert SEGFORMER.license == "nvidia-source-code-license-segformer"
    assert encoder_weights("resnet50", "swsl").license == "cc-by-nc-4.0"
    assert encoder_weights("tu-swin_tiny_patch4_window7_224.ms_in1k", "imagenet").license == "mit"
    assert encoder_weights("tu-convnextv2_tiny.fcmae_ft_in1k", "imagenet").license == "cc-by-nc-4.0"
    assert encoder_weights("somebody-s-own", "imagenet").license is None


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
