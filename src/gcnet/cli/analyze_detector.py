"""Images for the statistics of a detector's backbone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gcnet.cli.files import report_notes
from gcnet.visualization.gates import ALL_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

    from gcnet.analysis.attention import Attention
    from gcnet.analysis.padding import Padding
    from gcnet.data.coco.annotated_images import CocoImages
    from gcnet.data.dataset import Skipped
    from gcnet.tasks.trained import TrainedDetector
    from gcnet.workflows.analyze import AnalyzeSettings


def open_detector_run(detector: "TrainedDetector", settings: "AnalyzeSettings") -> "DetectorRun":
    """The validation images of --data."""
    from gcnet.data.coco.open import open_validation

    part = open_validation(settings.data_settings(), settings.seed)
    report_notes(part.reports())
    return DetectorRun(part.images, detector)


class DetectorRun:
    """Images as the detector resizes and pads them, each alone, so that its padding is small and known."""

    classes, labels = (ALL_IMAGES,), (0,)

    def __init__(self, images: "CocoImages", detector: "TrainedDetector") -> None:
        network: Any = detector.model
        self._images, self._transform, self.model = images, network.transform, network.backbone
        self._padding: Padding | None = None
        self.skipped: list[Skipped] = []
        self.worked = 0

    def images(self) -> "Iterator[Tensor]":
        """Each image that can be read, (1, 3, H, W)."""
        from gcnet.analysis.padding import Padding
        from gcnet.cli.progress import progress_bar
        from gcnet.data.coco.loading import DetectionDataset, build_detection_loader
        from gcnet.data.sampler import EvaluationSampler

        device = next(self.model.parameters()).device
        samples = DetectionDataset(self._images, with_objects=False)
        order = EvaluationSampler(len(self._images), batch_size=1)
        with progress_bar("images", len(self._images)) as progress:
            for batch in build_detection_loader(samples, order):
                self.skipped += batch.skipped
                for image in batch.images:
                    padded, _ = self._transform([image.to(device)])
                    self._padding = Padding(padded.image_sizes[0], tuple(padded.tensors.shape[-2:]))
                    self.worked += 1
                    yield padded.tensors
                progress(1)

    def part(self, attention: "Attention") -> "Attention":
        """The attention of the positions inside the image that was given last."""
        assert self._padding is not None
        return self._padding.without_queries(attention)
