"""The wheel works where it is installed, without the repository.

The wheel is installed in an environment that borrows the dependencies of the present one (a copy of torch would be
several gigabytes for each run of this test), but sees nothing of this repository's `src`.
"""

import sys
from pathlib import Path

import pytest

from gcnet import __version__
from release.check import first_example
from release.environments import Environment, borrow_packages, create_environment
from release.package import Package, build_package, content_problems, description_problems, metadata_problems

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return build_package(ROOT, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def environment(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, and the dependencies of this one."""
    made = create_environment(tmp_path_factory.mktemp("environment"))
    borrow_packages(made)
    made.install(str(package.wheel), options=("--no-deps", "--no-index"))
    return made


def test_contents_metadata_and_description_have_no_problems(package: Package) -> None:
    assert list(content_problems(package)) == []
    assert list(metadata_problems(package)) == []
    assert list(description_problems(package)) == []


def test_the_wheel_holds_the_package_its_types_templates_and_license_alone(package: Package) -> None:
    templates = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("templates/*.*")}
    assert len(templates) >= 5 and templates <= set(package.names)
    assert "gcnet/py.typed" in package.names
    assert {name.split("/")[0] for name in package.names} == {"gcnet", f"gcnet-{__version__}.dist-info"}


def test_the_installed_package_is_not_the_repository(environment: Environment, tmp_path: Path) -> None:
    place = Path(environment.run("-c", "import gcnet; print(gcnet.__file__)", folder=tmp_path).strip())
    assert place.is_relative_to(environment.packages)


def test_the_installed_package_runs_the_first_example_of_the_readme(environment: Environment, tmp_path: Path) -> None:
    example = first_example((ROOT / "README.md").read_text(encoding="utf-8"))
    assert environment.run("-W", "error", "-c", example, folder=tmp_path)


def test_the_installed_command_answers(environment: Environment, tmp_path: Path) -> None:
    assert environment.run("gcnet", "--version", folder=tmp_path) == f"gcnet {__version__}\n"
    assert "cifar_resnet20" in environment.run("gcnet", "models", "--model", "cifar_resnet20", folder=tmp_path)


def test_borrowed_packages_are_those_of_the_present_environment(environment: Environment, tmp_path: Path) -> None:
    assert Path(sys.executable).parents[1] != environment.path
    place = environment.run("-c", "import torch; print(torch.__file__)", folder=tmp_path).strip()
    assert not Path(place).is_relative_to(environment.path)
