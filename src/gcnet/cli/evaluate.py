"""`gcnet evaluate`: evaluates a trained network on labeled images."""

from gcnet.workflows.evaluate import EvaluateSettings

SUMMARY = "evaluate a trained network on labeled or annotated images"

Settings = EvaluateSettings


def run(settings: EvaluateSettings) -> int:
    """Evaluate, print the result and write what --output asks for."""
    from gcnet.devices import choose_device
    from gcnet.tasks.trained import TrainedClassifier, open_trained
    from gcnet.training.distributed import processes_joined

    device = choose_device(settings.device)
    size = settings.preprocessing.image_size
    found = None if settings.model is None else open_trained(settings.model, settings.weights, image_size=size)
    with processes_joined(device) as processes:
        if isinstance(found, TrainedClassifier):
            from gcnet.cli.evaluate_classifier import run_classifier

            found.model.to(device)
            run_classifier(settings, found, processes)
        else:
            from gcnet.cli.evaluate_detector import run_detector
            from gcnet.models.detector.heads import limit_detections

            settings.require_detector()
            if found is not None:
                found.model.to(device)
                if settings.detections_per_image is not None:
                    limit_detections(found.model, settings.detections_per_image)
            run_detector(settings, found, processes)
    return 0
