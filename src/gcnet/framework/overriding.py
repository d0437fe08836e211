"""Subclasses that override the forward method of a part, for which faster equivalents of that method do not hold."""

from typing import Any, ClassVar

from torch import nn


class Overridable:
    """Base class of parts with equivalents of `forward`: attributes that give its result in another way.

    Attributes:
        equivalents: their names.
        overrides_forward: whether a subclass overrides `forward` without them.
    """

    equivalents: ClassVar[tuple[str, ...]] = ()
    overrides_forward: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "equivalents" not in own and "forward" in own and not all(name in own for name in cls.equivalents):
            cls.overrides_forward = True


def is_overridden(part: nn.Module) -> bool:
    """Whether the class of a part overrides `forward` alone, so that the equivalents of its base do not hold.

    Args:
        part: the part.
    """
    return getattr(part, "overrides_forward", False)


def has_other_parts(context: nn.Module) -> bool:
    """Whether a module within a context is not of this package, such as a key with adapters.

    Args:
        context: the context.
    """
    return any(part is not context and not type(part).__module__.startswith("gcnet.") for part in context.modules())
