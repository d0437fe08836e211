"""The wheel holds what it should and works where it is installed, without the repository.

The wheel goes into an environment of its own that borrows the dependencies of the present one (a copy of torch would
be several gigabytes for each run of this test), but sees nothing of this repository's `src`.
"""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with the wheel in it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A path file adds the folder, but does not read the path files in it, so not the one of the editable install.
    dependencies = home / "lib" / version / "site-packages" / "dependencies.pth"
    dependencies.write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet", wheel, cwd=home)
    return home / "bin"


def test_the_wheel_holds_the_package_its_types_and_its_licence_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "gcnet/py.typed" in names
    templates = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("templates/*.*")}
    assert len(templates) >= 5 and templates <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"gcnet", "gcnet-0.1.0.dist-info"}
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_the_installed_package_is_not_the_repository(installed: Path, tmp_path: Path) -> None:
    place = Path(run(installed / "python", "-c", "import gcnet; print(gcnet.__file__)", cwd=tmp_path).strip())
    assert place.is_relative_to(installed.parent)


def test_the_installed_package_runs_the_first_example_of_the_readme(installed: Path, tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    assert run(installed / "python", "-W", "error", "-c", example[1], cwd=tmp_path)


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "gcnet", "--version", cwd=tmp_path) == "gcnet 0.1.0\n"
    assert "cifar_resnet20" in run(installed / "gcnet", "models", cwd=tmp_path)
