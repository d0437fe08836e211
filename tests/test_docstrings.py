"""Every public function, method and class has a complete Google docstring (the rules: `docstring_rules`)."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import gcnet
from docstring_rules import violations

SOURCE = Path(__file__).parents[1] / "src" / "gcnet"
FOLDERS = sorted({path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} | {""})


def _violations(folder: str) -> list[str]:
    files = sorted((SOURCE / folder).rglob("*.py") if folder else SOURCE.glob("*.py"))
    found = []
    for path in files:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            found += violations(path, ".".join(parts))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder or "top" for folder in FOLDERS])
def test_public_docstrings_of_a_folder_are_complete(folder: str) -> None:
    found = _violations(folder)
    assert not found, "\n".join(found)


TRAINING = {SOURCE / "workflows" / "train.py"}  # the example trains for minutes
EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text() and path not in TRAINING]


@pytest.mark.usefixtures("unchecked_shapes")  # torch.export cannot trace the checks.
@pytest.mark.parametrize("path", EXAMPLES, ids=[str(path.relative_to(SOURCE)) for path in EXAMPLES])
def test_examples_in_docstrings_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(import_module(name), extraglobs={"gcnet": gcnet}, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert result.failed == 0


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def area(side):\n    pass", "no docstring"),
        ('def area(side: int) -> int:\n    """The area."""', "side is described neither in Args nor in the text"),
        ('def area(a, b):\n    """Draw.\n\n    Args:\n        a: a side.\n    """', "Args lacks b"),
        (
            'def area(a, b):\n    """Draw.\n\n    Args:\n        a: one.\n        b: two.\n        c: no.\n    """',
            "names c",
        ),
        ('def area(a: int) -> int:\n    """The area of `a`."""', "no Returns"),
        ('def area(a: int):\n    """Check `a`."""\n    raise ValueError(a)', "no Raises"),
        ('def area(x: Tensor) -> None:\n    """Draw `x`."""', "x is a tensor without a shape"),
        ('class Area:\n    """An area."""\n\n    def __init__(self, side):\n        pass', "Args lacks side"),
        ('class Area:\n    """An area."""\n\n    def draw(self):\n        pass', "no docstring"),
        ('@dataclass\nclass Area:\n    """An area."""\n\n    side: int', "Args lacks side"),
    ],
)
def test_an_incomplete_docstring_is_reported(tmp_path: Path, code: str, problem: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert any(problem in line for line in violations(path, "module"))


@pytest.mark.parametrize(
    "code",
    [
        'def area(side: int) -> int:\n    """Return the area of a square of `side` pixels."""',
        'def area(x: Float[Tensor, "n c"]) -> None:\n    """Draw `x`."""',
        'def area(x: Tensor) -> None:\n    """Draw `x` (N, C)."""',
        'def area(a, b) -> int:\n    """Add.\n\n    Args:\n        a, b: sides.\n\n    Returns:\n        Sum.\n    """',
        "def _area(a, b):\n    pass",
        'class Area(nn.Module):\n    """An area."""\n\n    def forward(self, x):\n        pass',
        '@dataclass\nclass Area:\n    """An area."""\n\n    side: int\n    """In pixels."""',
    ],
)
def test_a_complete_docstring_is_accepted(tmp_path: Path, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert violations(path, "module") == []
