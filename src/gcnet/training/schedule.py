"""The course of the learning rate: a function of the step alone, so that nothing about it has to be saved."""

import math
from dataclasses import dataclass

from gcnet.training.settings import RecipeSettings


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then cosine, steps or a constant, for steps 0 to `total` - 1.

    The cosine reaches `final` only after the last step, as `torch.optim.lr_scheduler.CosineAnnealingLR` with
    T_max = `total` does; with warm-up it runs over the remaining steps. In warm-up, step i has
    peak * (i + 1) / warmup, or where `start` is given peak * (start + (1 - start) * i / warmup), as mmdet has it.
    """

    kind: str
    peak: float
    final: float
    warmup: int
    total: int
    milestones: tuple[float, ...]
    factor: float
    start: float | None = None

    def at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            if self.start is None:
                return self.peak * (step + 1) / self.warmup
            return self.peak * (self.start + (1 - self.start) * step / self.warmup)
        if self.kind == "constant":
            return self.peak
        if self.kind == "step":
            return self.peak * self.factor ** sum(step >= round(at * self.total) for at in self.milestones)
        done = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * done)) / 2


def build_schedule(recipe: RecipeSettings, steps_per_epoch: int) -> Schedule:
    """The schedule of a recipe for epochs of that many steps."""
    recipe = recipe.filled()
    return Schedule(
        kind=recipe.schedule or "",
        peak=recipe.peak_lr,
        final=recipe.final_lr,
        warmup=recipe.warmup_steps(steps_per_epoch),
        total=recipe.length(steps_per_epoch),
        milestones=recipe.milestones or (),
        factor=recipe.step_factor,
        start=recipe.warmup_from,
    )
