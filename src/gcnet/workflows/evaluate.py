"""`gcnet.evaluate`: evaluates a trained network, or a file of detections, on a data set."""

import logging

from gcnet.arguments import plain_arguments
from gcnet.compilation import compile_network, explained_compile_errors
from gcnet.devices import choose_device, is_first_process, place_network
from gcnet.tasks.registry import refuse_settings_of_other_tasks, task_of_results
from gcnet.tasks.results import EvaluationResult
from gcnet.tasks.settings import EvaluateSettings
from gcnet.tasks.trained import describe_loaded, open_trained
from gcnet.training.checksums import describe_weights
from gcnet.training.distributed import processes_joined

_logger = logging.getLogger(__name__)


def run_evaluation(settings: EvaluateSettings) -> EvaluationResult:
    """`evaluate` of settings, without writing `output`.

    Args:
        settings: of the evaluation.

    Returns:
        The result over all processes, in each of them.

    Raises:
        UserError: no such network or data, or they do not fit each other.
    """
    device = choose_device(settings.device)
    with processes_joined(device) as processes:  # from here on, an error that all processes have is reported once
        if settings.model is None:
            task = task_of_results()
            refuse_settings_of_other_tasks(settings, task, f"`results` are of a {task.noun}")
            return task.evaluate_results(settings, processes)
        loaded = open_trained(
            settings.model, settings.weights, image_size=settings.preprocessing.image_size, download=settings.download
        )
        processes.require_same(lambda: describe_weights(loaded.trained.model))
        refuse_settings_of_other_tasks(settings, loaded.task, f"{settings.model} is a {loaded.task.noun}")
        place_network(loaded.trained.model, device)
        if processes.first:
            for line in describe_loaded(loaded, settings):
                _logger.info(line)
            if processes.world > 1:
                _logger.info("%d processes share the images", processes.world)
        if settings.fuse:
            from gcnet.insertion.fuse import fuse

            loaded = loaded.with_model(fuse(loaded.trained.model))
            place_network(loaded.trained.model, device)
        if settings.compile:
            compile_network(loaded.trained.model)
        with explained_compile_errors():
            return loaded.task.evaluate(loaded, settings, processes)


@plain_arguments(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> EvaluationResult:
    """Evaluate a trained network on the validation images of a data set.

    Returns:
        Scores, tables and skipped images; `str()` gives the tables, `write(folder)` JSON, CSV and figures.

    Raises:
        UserError: no such network or data, or they do not fit each other.

    Example:
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> result = gcnet.evaluate("scenes.safetensors", data="scenes", limit=8)
        >>> sorted(result.scores)
        ['loss', 'top1_fraction', 'top5_fraction']
    """
    result = run_evaluation(settings)
    if settings.output is not None and is_first_process():
        result.write(settings.output)
    return result
