"""`gcnet analyze`: visualizes attention maps, and measures how query-dependent they are."""

from gcnet.workflows.analyze import AnalyzeSettings

SUMMARY = "visualize attention maps, and measure how query-dependent they are"

Settings = AnalyzeSettings


def run(settings: AnalyzeSettings) -> int:
    """Analyze, print and write what is asked for; 0 if at least one image worked, 1 if none did."""
    from gcnet.devices import choose_device
    from gcnet.tasks.trained import TrainedDetector, open_trained

    device = choose_device(settings.device)
    network = open_trained(settings.model, settings.weights, image_size=settings.preprocessing.image_size)
    if isinstance(network, TrainedDetector):
        settings.require_detector()
    network.model.to(device)
    if settings.statistics:
        from gcnet.cli.analyze_data import measure

        return measure(network, settings)
    from gcnet.cli.analyze_images import draw

    return draw(network, settings)
