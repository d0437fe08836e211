"""Other blocks in some places: records, weights and refusals."""

import pytest
import torch

from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.insertion import insertion_records
from gcnet.models.substitution import substitute


@pytest.mark.parametrize("name", ["scenes_resnet", "timm/resnet10t"])
def test_a_new_block_takes_the_place_and_position_and_other_weights_stay(name: str) -> None:
    stage, layer = (1, "layer1") if name == "scenes_resnet" else (3, "layer2")
    model = create_model(name, num_classes=3, block="se", ratio=2, stages=(stage,), position="after_add")
    place = next(name for name, _ in model.named_modules() if name.startswith(layer) and name.endswith(".context"))
    changed = substitute(model, {place.removesuffix(".context")}, "gc", ratio=4)
    new = [record for record in insertion_records(changed) if record["block"] == "gc"]
    assert [(record["stages"], record["blocks"], record["position"], record["ratio"]) for record in new] == [
        ([stage], [0], "after_add", 4)
    ]
    weights = changed.state_dict()
    for key, tensor in model.state_dict().items():
        if not key.startswith(f"{place}."):
            assert torch.equal(weights[key], tensor), key
    assert not changed.training


def test_a_place_without_a_block_is_refused() -> None:
    model = create_model("gc_cifar_resnet20")
    with pytest.raises(UserError, match=r"an inserted block, found layer9\.0"):
        substitute(model, {"layer1.0", "layer9.0"}, "snl")
