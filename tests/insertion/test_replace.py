"""Other blocks in place of inserted ones: the site, its position and all other weights stay."""

import pytest
import timm
import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.insertion import insert, inserted, insertion_records, replace
from gcnet.models.create import create_model


@pytest.mark.parametrize("name", ["scenes_resnet", "timm/resnet10t"])
def test_a_new_block_takes_the_place_and_position_and_other_weights_stay(name: str) -> None:
    stage = 1 if name == "scenes_resnet" else 3
    model = create_model(name, num_classes=3, block="se", ratio=2, stages=(stage,), position="after_add")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    site = inserted(model)[0].sites[0].name
    replace(model, {site}, "gc", ratio=4)
    new = [record for record in insertion_records(model) if record["block"] == "gc"]
    assert [(record["position"], record["ratio"]) for record in new] == [("after_add", 4)]
    assert [one["name"] for one in new[0]["places"]] == [site]
    for key, tensor in model.state_dict().items():
        if not key.startswith(f"{site}.context."):
            assert torch.equal(before[key], tensor), key


def test_blocks_on_tokens_are_replaced_where_they_are() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, img_size=32).eval()
    insert(model, "nl_embedded_gaussian", at="blocks.*", example_input=(3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    replace(model, {"blocks.0"}, "gc")
    assert torch.equal(model(x), expected)
    assert {one.block: [site.name for site in one.sites] for one in inserted(model)} == {
        "nl_embedded_gaussian": ["blocks.1"],
        "gc": ["blocks.0"],
    }


def test_a_block_that_does_not_take_the_channels_of_one_place_changes_nothing() -> None:
    model: nn.Module = create_model("nl_cifar_resnet20", stages=(1, 3), blocks=(0,))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    records = insertion_records(model)
    with pytest.raises(UserError, match="ratio"):
        replace(model, {"layer1.0", "layer3.0"}, "gc", ratio=32)  # 16 channels leave less than one, 64 leave two
    assert insertion_records(model) == records
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_every_place_has_the_ratio_of_its_own_kind() -> None:
    model: nn.Module = create_model("cifar_resnet20", num_classes=3)
    insert(model, "se", at="layer1.0", position="after_add", ratio=2)
    insert(model, "se", at="conv1", ratio=2)
    replace(model, {"layer1.0", "conv1"}, "gc")
    ratios = {record["places"][0]["name"]: record["ratio"] for record in insertion_records(model)}
    alone = create_model("cifar_resnet20", num_classes=3)
    insert(alone, "gc", at="conv1")
    assert ratios == {"layer1.0": 4, "conv1": insertion_records(alone)[0]["ratio"]}


def test_a_place_without_a_block_is_refused() -> None:
    model: nn.Module = create_model("gc_cifar_resnet20")
    with pytest.raises(UserError, match=r"an inserted block, found layer9\.0"):
        replace(model, {"layer1.0", "layer9.0"}, "snl")
    with pytest.raises(UserError, match=r'found layer1\.00; did you mean "layer1\.0"'):
        replace(model, "layer1.00", "snl")


def test_a_ratio_that_the_block_does_not_take_is_refused() -> None:
    model: nn.Module = create_model("gc_cifar_resnet20")
    records = insertion_records(model)
    with pytest.raises(UserError, match="`ratio` must be above 0, found 0"):
        replace(model, "layer1.0", "se", ratio=0)
    with pytest.raises(UserError, match='block "eca" takes no option "ratio"'):
        replace(model, "layer1.0", "eca", ratio=4)
    assert insertion_records(model) == records
    replace(model, "layer1.0", "eca")
    assert [one.block for one in inserted(model)] == ["gc", "eca"]
