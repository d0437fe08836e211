"""Initial weights of a training whose model file has conventions and a box head."""

from gcnet.errors import UserError, printable
from gcnet.models.card import ModelCard
from gcnet.models.checkpoint_cache import local_weights
from gcnet.models.model_file import find_card
from gcnet.models.registry import is_detector
from gcnet.training.settings import TrainSettings


def stored_conventions(settings: TrainSettings) -> str | None:
    """Return the conventions of the detector in the initial weights, None if they are not those of a detector.

    Args:
        settings: of the training.

    Raises:
        UserError: the weights are a published checkpoint that is not in the cache, without `download`.
    """
    card = _detector_card(settings)
    return None if card is None else _conventions(card)


def check_initial_weights(settings: TrainSettings) -> None:
    """Check that conventions and box head are those of the detector in the initial weights.

    Args:
        settings: of the training, with conventions.

    Raises:
        UserError: they differ.
    """
    card = _detector_card(settings)
    if card is None:
        return
    detector, weights = settings.detector, printable(settings.network.weights or "")
    if detector.conventions != _conventions(card):
        raise UserError(
            f"`conventions={detector.conventions}` gives other outputs than {weights} was trained with: omit "
            f"`conventions`, or give {_conventions(card)}"
        )
    box_head = (card.detector or {}).get("box_head", "2fc")
    if detector.box_head != box_head:
        raise UserError(f"{weights} has the box head {box_head}: add `box_head={box_head}`")


def _detector_card(settings: TrainSettings) -> ModelCard | None:
    weights = settings.network.weights
    if weights is None:
        return None
    card = find_card(local_weights(weights, download=settings.data.download))
    return card if card is not None and is_detector(card.architecture or "") else None


def _conventions(card: ModelCard) -> str:
    return (card.detector or {}).get("conventions", "mmdet")
