"""Functions of settings take the fields as plain arguments, and say in those words what is wrong."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gcnet.arguments import INTERNAL, POSITIONAL, has_type, plain_arguments, settings_from
from gcnet.errors import UserError


@dataclass(frozen=True)
class Optics:
    """A group."""

    focal_length: float = 50.0
    """In millimeters; `aperture` goes with it."""
    aperture: Literal["f2", "f4"] | None = None
    """Opening."""


@dataclass(frozen=True)
class Camera:
    """Settings."""

    lens: str = field(metadata=POSITIONAL)
    """Name of the lens."""
    places: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Folders."""
    optics: Optics = field(default_factory=lambda: Optics(focal_length=35.0))
    size: tuple[int, int] | None = None
    """Height and width."""
    tags: str = "a,b"
    """Words, separated by commas."""
    given: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size is not None and min(self.size) < 1:
            raise UserError(f"`size` must be positive, found {self.size}; `places` stay")


def describe(settings: Camera, *, shout: bool = False) -> str:
    """Describe a camera.

    Args:
        shout: in capitals.

    Returns:
        The description.
    """
    text = f"{settings.lens} {settings.optics.focal_length} {settings.size} {settings.places} {settings.tags}"
    return text.upper() if shout else text


camera = plain_arguments(Camera)(describe)


def test_fields_of_groups_are_arguments_with_the_defaults_of_the_group() -> None:
    assert settings_from(Camera, {"lens": "x"}) == Camera("x", given=("lens",))
    assert settings_from(Camera, {"lens": "x", "aperture": "f2"}).optics == Optics(35.0, "f2")
    assert camera("x", focal_length=85).startswith("x 85 ")
    assert camera("x", shout=True).startswith("X 35.0 ")


def test_lists_are_tuples_texts_are_paths_and_lists_of_words_are_texts() -> None:
    settings = settings_from(Camera, {"lens": "x", "places": ["a", Path("b")], "size": [2, 3], "tags": ["c", "d"]})
    assert (settings.places, settings.size, settings.tags) == ((Path("a"), Path("b")), (2, 3), "c,d")
    assert settings_from(Camera, {"lens": "x", "places": "a"}).places == (Path("a"),)


def test_the_signature_and_the_docstring_name_every_argument() -> None:
    signature = inspect.signature(camera)
    assert list(signature.parameters) == ["lens", "places", "focal_length", "aperture", "size", "tags", "shout"]
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    assert [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == [
        "lens",
        "places",
    ]
    assert signature.parameters["focal_length"].default == 35.0
    text = camera.__doc__ or ""
    assert "Args:\n    lens: Name of the lens.\n" in text
    assert "    focal_length: In millimeters; `aperture` goes with it.\n" in text
    assert text.endswith("    shout: in capitals.\n\nReturns:\n    The description.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lense": 1}, 'unknown argument "lense"; did you mean "lens"'),
        ({}, "`lens` is required"),
        ({"lens": "x", "size": (1, 2, 3)}, "`size` must be a sequence of 2 whole numbers or None, found (1, 2, 3)"),
        ({"lens": "x", "focal_length": "long"}, "`focal_length` must be a number, found 'long'"),
        ({"lens": "x", "focal_length": True}, "`focal_length` must be a number, found True"),
        ({"lens": "x", "aperture": "f8"}, '`aperture` must be "f2" or "f4" or None, found \'f8\''),
        ({"lens": "x", "given": ("a",)}, 'unknown argument "given"'),
        ({"lens": "x", "size": (0, 1)}, "`size` must be positive, found (0, 1); `places` stay"),
    ],
)
def test_usage_errors_name_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        camera(**arguments)
    assert str(error.value).startswith(message)


def test_too_many_or_repeated_values_are_refused_as_by_python() -> None:
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        camera("x", "a", "b")
    with pytest.raises(TypeError, match="multiple values for lens"):
        camera("x", lens="y")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, True),
        (True, int, False),
        (True, bool, True),
        (1, bool, False),
        ((1, 2), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ((1, 2, 3), tuple[int, int], False),
        (None, int | None, True),
        ("f2", Literal["f2"], True),
    ],
)
def test_types_of_values(value: object, kind: object, expected: bool) -> None:
    assert has_type(value, kind) is expected
