"""Which class defines a method of a module, and whether the method was replaced since."""

import inspect
import sys
from typing import Any

from torch import nn


def defining_class(kind: type, method: str = "forward") -> type:
    """Return the class, `kind` or one of its bases, that defines a method.

    Args:
        kind: the class.
        method: name of one of its methods.
    """
    return next(base for base in kind.__mro__ if method in vars(base))


def is_replaced(kind: type, method: str = "forward") -> bool:
    """Whether the method of a class is another one than in the source file of the class that defines it.

    Args:
        kind: the class.
        method: name of one of its methods.
    """
    definer = defining_class(kind, method)
    function: Any = vars(definer)[method]
    if definer.__module__.startswith("gcnet."):
        function = inspect.unwrap(function)  # Methods of this package may be wrapped by a type checker.
    code = getattr(function, "__code__", None)
    if code is None or code.co_filename != getattr(sys.modules[definer.__module__], "__file__", None):
        return True
    return code.co_qualname != f"{definer.__qualname__}.{method}"


def has_method_of(module: nn.Module, classes: tuple[type, ...], method: str = "forward") -> bool:
    """Whether a method of a module is that of one of the classes, and not of a subclass, an instance or replaced.

    Args:
        module: the module.
        classes: the classes.
        method: name of one of its methods.
    """
    kind = type(module)
    return method not in vars(module) and defining_class(kind, method) in classes and not is_replaced(kind, method)
