"""What says how good a network is: a classifier's top-1 accuracy, a detector's average precision."""

from dataclasses import dataclass

from gcnet.models.names import has_masks, is_detector


@dataclass(frozen=True)
class Score:
    """A number from 0 to 1 that an evaluation gives, printed times 100.

    Attributes:
        column: its name in the rows of a run and in results.json.
        name: in sentences and on axes.
        label: in titles.
        unit: behind a value, with the space before it; empty for a number without unit.
        points: what a hundredth of difference is called.
        is_share: whether it is the share of the validation images that are right, so that their number says how much
            chance is in it; average precision is not.
    """

    column: str
    name: str
    label: str
    unit: str
    points: str
    is_share: bool

    @property
    def heading(self) -> str:
        """Of a column of values, or of an axis."""
        return f"{self.name} ({self.unit.strip()})" if self.unit else self.name

    @property
    def title(self) -> str:
        """`label` as the beginning of a sentence."""
        return self.label[0].upper() + self.label[1:]


TOP1 = Score("top1", "top-1", "top-1 accuracy", " %", "points", is_share=True)
MASK_AP = Score("mask_ap", "mask AP", "mask AP", "", "points of AP", is_share=False)
BOX_AP = Score("box_ap", "box AP", "box AP", "", "points of AP", is_share=False)

CLASSIFIER_SCORES = (TOP1,)
DETECTOR_SCORES = (MASK_AP, BOX_AP)


def scores_of(model: str) -> tuple[Score, ...]:
    """The scores of a network by its name: the first is what it is judged by, the others are shown beside it."""
    if not is_detector(model):
        return CLASSIFIER_SCORES
    return DETECTOR_SCORES if has_masks(model) else (BOX_AP,)
