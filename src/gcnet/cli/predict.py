"""`gcnet predict`: predicts classes or objects for images, as a table, JSON, CSV and pictures."""

from gcnet.cli.files import report_note
from gcnet.workflows.predict import PredictSettings

SUMMARY = "predict the classes of images, or detect objects in them"

Settings = PredictSettings


def run(settings: PredictSettings) -> int:
    """Predict, print and write what is asked for; 0 if at least one image worked, 1 if none did."""
    from gcnet.data.images.listing import find_images
    from gcnet.devices import choose_device
    from gcnet.tasks.trained import TrainedDetector, open_trained

    device = choose_device(settings.device)
    paths = find_images(settings.paths, note=report_note)
    opened = open_trained(settings.model, settings.weights, image_size=settings.preprocessing.image_size)
    opened.model.to(device)
    if isinstance(opened, TrainedDetector):
        from gcnet.cli.predict_detector import detect
        from gcnet.models.detector.heads import limit_detections

        settings.require_detector()
        settings.refuse_folder_of(paths)
        if settings.detections_per_image is not None:
            limit_detections(opened.model, settings.detections_per_image)
        return detect(opened, paths, settings)
    from gcnet.cli.predict_classifier import classify

    settings.require_classifier()
    return classify(opened, paths, settings)
