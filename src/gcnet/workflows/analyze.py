"""`gcnet.analyze`: attention maps of images, or statistics of attention over a data set."""

import logging

import torch

from gcnet.arguments import plain_arguments
from gcnet.devices import choose_device, is_first_process
from gcnet.tasks.registry import refuse_settings_of_other_tasks
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.tasks.trained import TaskModel, open_trained
from gcnet.training.checksums import describe_weights
from gcnet.training.distributed import processes_joined
from gcnet.workflows.attention_maps import AttentionMaps, draw_attention_maps
from gcnet.workflows.attention_statistics import AttentionStatistics, measure_attention

_logger = logging.getLogger(__name__)


def run_analysis(settings: AnalyzeSettings) -> AttentionMaps | AttentionStatistics:
    """`analyze` of settings.

    Args:
        settings: of the analysis.

    Returns:
        Attention maps of images, with written figures, or statistics of the images of all processes, not written yet.

    Raises:
        UserError: no such network, images or data, or the network has nothing to show.
    """
    device = choose_device(settings.device)
    if not settings.statistics:
        return draw_attention_maps(_opened(settings, device), settings)
    with processes_joined(device) as processes:  # from here on, an error that all processes have is reported once
        loaded = _opened(settings, device)
        processes.require_same(lambda: describe_weights(loaded.trained.model))
        if processes.world > 1 and processes.first:
            _logger.info("%d processes share the images", processes.world)
        return measure_attention(loaded, settings, processes)


def _opened(settings: AnalyzeSettings, device: torch.device) -> TaskModel:
    loaded = open_trained(
        settings.model, settings.weights, image_size=settings.preprocessing.image_size, download=settings.download
    )
    refuse_settings_of_other_tasks(settings, loaded.task, f"{settings.model} is a {loaded.task.noun}")
    loaded.trained.model.to(device)
    return loaded


@plain_arguments(AnalyzeSettings)
def analyze(settings: AnalyzeSettings) -> AttentionMaps | AttentionStatistics:
    """Visualize the attention maps of images, or measure over a data set how query-dependent attention is.

    Returns:
        `AttentionMaps` of images, or with `statistics` the `AttentionStatistics` of the data set. Files are in
        `output`.

    Raises:
        UserError: no such network, images or data, or the network has nothing to show.

    Example:
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> statistics = gcnet.analyze("scenes.safetensors", data="scenes", statistics=True, limit=4)
        >>> all(layer.is_shared for layer in statistics.layers)
        True
    """
    result = run_analysis(settings)
    if isinstance(result, AttentionStatistics) and result.images and is_first_process():
        result.write(settings.output)
    return result
