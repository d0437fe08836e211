"""Networks of published detectors have the parameters that were counted in the original code."""

import pytest
import torch

from gcnet.checkpoints.published_files import PublishedFile, published_files
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.published_networks import published_network

_DETECTORS = [file for file in published_files() if file.task == "detection"]


def _background_rows(network: str) -> int:
    """Parameters of box deltas and masks of the background, which mmdet 2 and 3 do not have."""
    boxes = 0 if network.startswith("cascade") else 4 * 1024 + 4  # the cascade's deltas are of all classes together
    heads = 3 if network.startswith("cascade") else 1
    return boxes + heads * (256 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("file", _DETECTORS, ids=lambda file: file.name)
def test_its_parameters_are_the_published_ones(file: PublishedFile) -> None:
    network, arguments = published_network(file.name)
    with torch.device("meta"):
        model = create_model(network, **arguments)
    extra = _background_rows(network) if file.library == "mmdet" else 0
    assert sum(parameter.numel() for parameter in model.parameters()) == file.parameters + extra


def test_a_checkpoint_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match="is for segmentation; only networks of published detectors"):
        published_network("mmseg/gcnet_r50-d8_512x1024_40k_cityscapes")
