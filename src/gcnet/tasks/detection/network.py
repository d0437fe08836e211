"""The detector of a run: its settings with defaults, and the network that is built from them."""

from dataclasses import replace
from typing import Any

from torch import nn

from gcnet.models.pretrained import FIRST_VERSION, PRETRAINED, pretrained_versions
from gcnet.models.registry import backbone_name, split_name
from gcnet.tasks.detection.initial_weights import check_initial_weights, stored_conventions
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.recipe import DETECTOR_PRESET, PRESETS
from gcnet.training.settings import TrainSettings

SHORT_SIDE, _LONG_SIDE = 800, 1333  # default image size of detectors on COCO, in pixels


def build_detector(settings: TrainSettings, num_classes: int) -> nn.Module:
    """Build the detector of the settings, with its blocks.

    Args:
        settings: settings of the run.
        num_classes: number of object classes.

    Returns:
        The detector.

    Raises:
        UserError: the initial weights do not fit, or have other conventions.
    """
    from gcnet.models.create import create_model

    check_initial_weights(settings)
    network, detector = settings.network, settings.detector
    model = create_model(
        network.model,
        num_classes=num_classes,
        weights=network.weights,
        backbone_weights=detector.backbone_weights,
        detector=mask_rcnn_options(detector),
        download=settings.data.download,
        **network.block_arguments(),
    )
    if detector.min_size is not None:
        transform: Any = model.transform
        transform.min_size = detector.min_size
    return model


def mask_rcnn_options(detector: DetectorSettings) -> dict[str, Any]:
    """Convert the settings `detector` to options of `gcnet.models.detector.mask_rcnn.build_mask_rcnn`.

    Returns:
        Only the options that are set.
    """
    options = detector.options()
    if detector.min_size is not None:
        short = detector.min_size[-1]
        options["image_size"] = (short, detector.max_size or round(short * _LONG_SIDE / SHORT_SIDE))
    return options


def with_detection_defaults(settings: TrainSettings) -> TrainSettings:
    """Fill in the recipe, the conventions and the norm of `settings`.

    Returns:
        The settings. Conventions are by default those of a detector in the initial weights, else of the preset.
        Without weights, no layer is frozen and batch statistics are trained. "pretrained" weights of a backbone of
        torchvision are IMAGENET1K_V1, with which the paper and mmdet start.
    """
    recipe, detector = settings.recipe, settings.detector
    has_weights = detector.backbone_weights is not None or settings.network.weights is not None
    if recipe.freeze is None and not has_weights:
        recipe = replace(recipe, freeze=())
    elif recipe.freeze is None and _backbone(settings) == "scenes_resnet":
        recipe = replace(recipe, freeze=("backbone.body.stem.*",))  # layers after the stem are c2 and are trained
    recipe = recipe.with_defaults(DETECTOR_PRESET)
    detector = replace(
        detector,
        norm=detector.norm or ("eval_stats" if has_weights else "batch"),
        conventions=detector.conventions
        or stored_conventions(settings)
        or PRESETS[recipe.preset or DETECTOR_PRESET].conventions,
        backbone_weights=_first_published(_backbone(settings), detector.backbone_weights),
    )
    return replace(settings, recipe=recipe, detector=detector)


def _first_published(backbone: str, weights: str | None) -> str | None:
    """The name of torchvision's first weights for "pretrained"; torchvision's later ones are more accurate."""
    return FIRST_VERSION if weights == PRETRAINED and FIRST_VERSION in pretrained_versions(backbone)[1] else weights


def _backbone(settings: TrainSettings) -> str:
    return backbone_name(split_name(settings.network.model)[1])
