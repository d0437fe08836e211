"""Weight source torchvision: `SqueezeExcitation`, and the published classifiers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.checkpoints.source import SE_TABLE, Source, describe_se, torch_hub_file, torch_hub_path

SOURCES = {"torchvision_se": Source(tables=((SE_TABLE,),), describe=describe_se)}


def torchvision_weights(name: str, version: str) -> Any:
    """Return the member of torchvision's weights enumeration, which has `transforms` and `url`.

    Args:
        name: of the network.
        version: name of the weights.
    """
    import torchvision.models

    return torchvision.models.get_model_weights(name)[version]


# With its own weights, torchvision normalizes the input of these inside the network (transform_input). Here the values
# are part of the preprocessing, which is stored in model files.
_NORMALIZED_INSIDE = ("googlenet", "inception_v3")


def torchvision_preprocessing(name: str, version: str) -> dict[str, Any]:
    """Return the preprocessing of published weights, as `gcnet.data.settings.Preprocessing` by name.

    Args:
        name: of the network.
        version: name of the weights.
    """
    transforms = torchvision_weights(name, version).transforms()
    half = (0.5, 0.5, 0.5)
    inside = name in _NORMALIZED_INSIDE
    return {
        "image_size": transforms.crop_size[0],
        "resize": transforms.resize_size[0],
        "interpolation": transforms.interpolation.value,
        "mean": half if inside else tuple(transforms.mean),
        "std": half if inside else tuple(transforms.std),
    }


class TorchvisionCatalog:
    """The published classifiers of torchvision."""

    def knows(self, network: str) -> bool:
        """Whether torchvision has a classifier of the name `network`."""
        import torchvision.models

        return network in torchvision.models.list_models(module=torchvision.models)

    def versions(self, network: str, tag: str) -> list[str]:  # noqa: ARG002
        """Return the names of the published weights of a network, torchvision's DEFAULT first.

        Args:
            network: name of the network.
            tag: unused, as torchvision's names have none.
        """
        import torchvision.models

        if not self.knows(network):
            return []
        members = torchvision.models.get_model_weights(network)
        first = getattr(members, "DEFAULT", None)
        names = [member.name for member in members]
        return names if first is None else [first.name, *(name for name in names if name != first.name)]

    def cached_file(self, network: str, version: str) -> Path | None:
        """Return the cached file of published weights, None if it is not in the cache.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        return torch_hub_file(torchvision_weights(network, version).url)

    def cache_place(self, network: str, version: str) -> Path:
        """Return the path of published weights in the cache of torch.hub.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        return torch_hub_path(torchvision_weights(network, version).url)

    def server(self) -> str:
        """Return the host name of the download server."""
        return "download.pytorch.org"

    def read(self, network: str, version: str, cached: Path | None, image_size: int | None) -> dict[str, Tensor]:  # noqa: ARG002
        """Return published tensors by the keys of torchvision's network.

        Args:
            network: name of the network.
            version: name of the weights.
            cached: their file; None to download it.
            image_size: unused; position embeddings are resized afterwards.
        """
        if cached is not None:
            return read_state_dict(cached)
        return torchvision_weights(network, version).get_state_dict(check_hash=True)
