"""A loss that is not finite: it stops the run, names the images, and has an exit code of its own."""

import math
from collections.abc import Sequence

from gcnet.errors import UserError

EXIT_NON_FINITE = 3
_LISTED = 8


class NonFiniteLoss(UserError):
    """The loss of a step is not finite; the weights are those from before that step.

    Attributes:
        step: the step, counted from 0, that could not be taken.
        names: the images of the micro-batches whose loss is not finite.
    """

    def __init__(self, step: int, value: float, names: Sequence[str], *, what: str = "the loss") -> None:
        self.step = step
        self.names = list(names)
        listed = ", ".join(self.names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        images = f"; images of the batch: {listed}{more}" if names else ""
        kind = "not a number" if math.isnan(value) else "infinite"
        advice = "try a lower --lr, --clip-norm or --warmup-epochs"
        super().__init__(f"{what} is {kind} in step {step + 1}{images}; {advice}")
