"""Virtual environments in which a wheel is installed as by a user."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from gcnet.errors import Failure

_SECONDS = 3600


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the present Python version.

    Attributes:
        path: of the environment.
    """

    path: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.path / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Folder of the installed packages."""
        return self.path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def install(self, *requirements: str, options: Sequence[str] = ()) -> None:
        """Install packages by pip.

        Args:
            requirements: names with versions, or wheels.
            options: further options of `pip install`.

        Raises:
            Failure: pip fails.
        """
        pip("--python", self.python, "install", "--quiet", *options, *requirements)

    def run(self, *command: str | Path, folder: Path) -> str:
        """Run a program of the environment, or Python with arguments that begin with "-".

        Args:
            command: name of the program and arguments.
            folder: working directory.

        Returns:
            Its output.

        Raises:
            Failure: it fails.
        """
        first = str(command[0])
        words = (self.python, *command) if first.startswith("-") else (self.path / "bin" / first, *command[1:])
        return run(*words, folder=folder)


def create_environment(path: Path) -> Environment:
    """Create an empty environment, without pip.

    Args:
        path: new folder.
    """
    venv.create(path, with_pip=False)
    return Environment(path)


def borrow_packages(environment: Environment) -> None:
    """Make all packages of the present environment visible in another one, except for those in development."""
    # A path file adds the folder, but does not read the path files in it, so not those of editable installs.
    (environment.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def borrow_some(environment: Environment, links: Path, prefixes: Sequence[str]) -> dict[str, str]:
    """Make some packages of the present environment visible in another one; pip cannot change or remove them.

    Args:
        environment: which needs the packages.
        links: new folder, outside of the environment, for links to the packages.
        prefixes: with which their names begin.

    Returns:
        Their versions by name.
    """
    links.mkdir()
    versions = {}
    for found in distributions(path=[sysconfig.get_path("purelib")]):
        name = found.metadata["Name"].lower().replace("_", "-")
        if not name.startswith(tuple(prefixes)):
            continue
        versions[name] = found.version
        for top in {file.parts[0] for file in found.files or ()} - {".."}:
            if not (links / top).exists():
                (links / top).symlink_to(Path(str(found.locate_file(top))))
    (environment.packages / "borrowed.pth").write_text(f"{links}\n")
    return versions


def pip(*arguments: str | Path) -> str:
    """Run pip of the present environment.

    Args:
        arguments: such as "install" and a requirement.

    Returns:
        Its output.

    Raises:
        Failure: it fails.
    """
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, folder=Path.cwd())


def user_variables() -> dict[str, str]:
    """Return the environment variables without those that show the present Python's packages."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in own}


def run(*command: str | Path, folder: Path) -> str:
    """Run a program with `user_variables`.

    Args:
        command: program and arguments.
        folder: working directory.

    Returns:
        Its standard output.

    Raises:
        Failure: it fails; the message ends with its last lines.
    """
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=user_variables(), capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-8:]
        raise Failure(f"{' '.join(map(str, command))[:200]} failed with {done.returncode}:\n" + "\n".join(lines))
    return done.stdout


def free_gigabytes(folder: Path) -> float:
    """Return the free space of a disk.

    Args:
        folder: on the disk.
    """
    return shutil.disk_usage(folder).free / 1e9
