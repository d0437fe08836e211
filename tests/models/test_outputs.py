"""Logits are found in what classifiers return, and a network that does not suit the images is refused at once."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.outputs import check_classifier, class_outputs

LOGITS, OTHER, THIRD = torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 5)

FORMS = {
    "tensor": LOGITS,
    "tuple": (LOGITS, OTHER),
    "list": [LOGITS, {"loss": 1}],
    "mapping": {"features": torch.ones(2, 3, 4, 4), "logits": LOGITS},
    "out": OrderedDict(out=LOGITS, aux=OTHER),
    "attribute": SimpleNamespace(loss=None, logits=LOGITS),
    "named tuple": namedtuple("Answer", ["features", "logits"])(OTHER, LOGITS),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_logits_are_found_in_every_form(form: object) -> None:
    found = class_outputs(form)
    assert found.logits is LOGITS
    assert found.auxiliary == ()


def test_auxiliary_heads_have_the_weights_of_their_papers() -> None:
    assert class_outputs(InceptionOutputs(LOGITS, OTHER)).auxiliary == ((0.4, OTHER),)
    found = class_outputs(GoogLeNetOutputs(LOGITS, OTHER, THIRD))
    assert [weight for weight, _ in found.auxiliary] == [0.3, 0.3]
    assert {id(value) for _, value in found.auxiliary} == {id(OTHER), id(THIRD)}
    assert class_outputs(InceptionOutputs(LOGITS, None)).auxiliary == ()


@pytest.mark.parametrize("form", [None, 3, "logits", (), {"features": LOGITS}, torch.ones(2, 3, 4, 4), torch.ones(2)])
def test_outputs_without_logits_are_refused(form: object) -> None:
    with pytest.raises(UserError, match=r"a classifier must return logits \(N, classes\)"):
        class_outputs(form)


class Answering(nn.Module):
    def __init__(self, classes: int, size: int = 8) -> None:
        super().__init__()
        self.linear, self.size = nn.Linear(3 * size * size, classes), size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(images.flatten(1))}


def test_a_network_that_fits_the_images_passes_unchanged() -> None:
    model = create_model("cifar_resnet20").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = Answering(4)
    state = torch.random.get_rng_state()
    check_classifier(model, 32, 10)
    check_classifier(other, 8, 4)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        (
            "vit_tiny_patch16_224",
            32,
            r"cannot run on images of 32 x 32 pixels; it is built for 224 x 224: give `image_size=224`",
        ),
        ("torchvision/vit_b_32", 64, "it is built for 224 x 224: give `image_size=224`"),
        ("swin_tiny_patch4_window7_224", 100, "give `image_size=224`"),
        ("torchvision/inception_v3", 32, "cannot run on images of 32 x 32 pixels: give another `image_size`"),
        ("torchvision/maxvit_t", 100, "cannot run on images of 100 x 100 pixels"),
        ("torchvision/alexnet", 32, "cannot run on images of 32 x 32 pixels"),
    ],
)
def test_a_network_with_another_input_size_reports_it(name: str, size: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_classifier(create_model(name, num_classes=3), size, 3)


def test_another_number_of_outputs_and_an_output_of_another_form_are_refused() -> None:
    with pytest.raises(UserError, match="found 4 outputs and 3 classes"):
        check_classifier(Answering(4), 8, 3)
    with pytest.raises(UserError, match="must return logits"):
        check_classifier(nn.Conv2d(3, 3, 3), 8, 3)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "maxvit_t"])
def test_named_networks_of_torchvision_with_other_outputs_pass(name: str) -> None:
    size = {"inception_v3": 299, "maxvit_t": 224}.get(name, 96)
    assert hasattr(torchvision.models, name)
    check_classifier(create_model(f"torchvision/{name}", num_classes=3), size, 3)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit_tiny_distilled_patch16_224"]
)
def test_networks_made_for_one_size_are_built_for_another(name: str) -> None:
    check_classifier(create_model(name, num_classes=3, image_size=64), 64, 3)
