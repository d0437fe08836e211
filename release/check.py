"""`python -m release.check`: builds the files of a release, checks them, and prints what would be published."""

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gcnet.cli.arguments import parse
from gcnet.errors import Failure, UserError
from release.environments import borrow_some, create_environment, free_gigabytes, pip
from release.package import (
    Package,
    build_package,
    content_problems,
    description_problems,
    metadata_problems,
    remaining_steps,
)

ROOT = Path(__file__).parents[1]
_TORCH = ("torch", "triton", "nvidia-", "cuda-")
_GIGABYTES = 8  # torch with its CUDA libraries has 5.6 GB; the wheels are unpacked from another copy


@dataclass(frozen=True)
class CheckSettings:
    """Build a release, check it, install it in an empty environment, and print what would be published.

    Examples:
      python -m release.check
      python -m release.check --borrow-torch
    """

    borrow_torch: bool = False
    """Use torch of the present environment by links, instead of downloading 5.6 GB."""
    final: bool = False
    """Fail if steps remain before publishing, such as the section of CHANGELOG.md."""
    folder: Path | None = None
    """Existing folder for temporary files (default: that of the system)."""

    def __post_init__(self) -> None:
        """Check the folder."""
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"`folder` must be an existing folder, found {self.folder}")


class Report:
    """Prints each step with its duration and problems.

    Attributes:
        failed: whether a step had problems.
    """

    def __init__(self) -> None:
        self.failed = False
        self._began = time.monotonic()

    def add(self, step: str, problems: Iterable[str] = ()) -> None:
        """Print a step that has ended.

        Args:
            step: what was checked.
            problems: a sentence each; none if it passed.
        """
        found = list(problems)
        self.failed |= bool(found)
        seconds = time.monotonic() - self._began
        print(f"{'FAILED' if found else 'ok':6} {seconds:6.1f} s  {step}", flush=True)
        for problem in found:
            print(f"         {problem}", flush=True)
        self._began = time.monotonic()


def first_example(readme: str) -> str:
    """Return the first Python example of a README in Markdown.

    Args:
        readme: its text.

    Raises:
        Failure: there is none.
    """
    match = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    if match is None:
        raise Failure("README.md has no Python example")
    return match[1]


def resolved(package: Package, python: str, target: Path) -> int:
    """Return how many packages pip would install for the wheel with all extras for users.

    Args:
        package: the built files.
        python: version of Python, such as "3.13".
        target: a folder that does not exist; nothing is written to it.

    Raises:
        Failure: pip finds no versions that fit together.
    """
    requirement = f"{package.wheel}[{','.join(package.extras)}]"
    options = ("--dry-run", "--quiet", "--only-binary=:all:", "--target", target, "--python-version", python)
    return len(json.loads(pip("install", *options, "--report", "-", requirement))["install"])


def check_installed(package: Package, folder: Path, *, links_torch: bool) -> str:
    """Install the wheel in an empty environment, and run its command and the first example of the README.

    Args:
        package: the built files.
        folder: an empty folder.
        links_torch: use torch of the present environment.

    Returns:
        A description of the environment.

    Raises:
        Failure: the disk is too small, or a step fails.
    """
    if not links_torch and free_gigabytes(folder) < _GIGABYTES:
        raise Failure(
            f"{folder} has {free_gigabytes(folder):.0f} GB free, and torch needs {_GIGABYTES}: use --borrow-torch"
        )
    environment = create_environment(folder / "environment")
    borrowed = borrow_some(environment, folder / "torch", _TORCH) if links_torch else {}
    pinned = [f"{name}=={version}" for name, version in borrowed.items()]
    environment.install(str(package.wheel), *pinned, options=("--no-cache-dir",))
    pip("--python", environment.python, "check")
    empty = folder / "empty"
    empty.mkdir()
    version = environment.run("gcnet", "--version", folder=empty).strip()
    if version != f"gcnet {package.metadata.version}":
        raise Failure(f"gcnet --version prints {version}")
    environment.run("-c", first_example((package.root / "README.md").read_text(encoding="utf-8")), folder=empty)
    installed = json.loads(pip("--python", environment.python, "list", "--format", "json"))
    origin = "torch linked from the present environment" if links_torch else "torch from the package index"
    return f"{len(installed)} packages, {origin}"


def summary(package: Package) -> str:
    """Return what a release would publish: files, sizes, hashes and metadata.

    Args:
        package: the built files.
    """
    metadata = package.metadata
    lines = ["", "would be published:"]
    for file in (package.wheel, package.sdist):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"  {file.name}  {file.stat().st_size:,} bytes  sha256 {digest}")
    base = [str(requirement) for requirement in metadata.requires_dist or () if requirement.marker is None]
    lines += [
        f"  {metadata.name} {metadata.version}, {metadata.license_expression}, Python {metadata.requires_python}",
        f"  {metadata.summary}",
        f"  {len(package.names)} files in the wheel; requires {', '.join(base)}",
        f"  extras: {', '.join(map(str, metadata.provides_extra or ()))}",
        *(f"  {classifier}" for classifier in metadata.classifiers or ()),
    ]
    return "\n".join(lines)


def check_release(settings: CheckSettings) -> int:
    """Check a release and print each step.

    Args:
        settings: of the command.

    Returns:
        Exit code: 1 if a check failed, else 0.

    Raises:
        Failure: the files cannot be built.
    """
    report = Report()
    with tempfile.TemporaryDirectory(prefix="gcnet-release-", dir=settings.folder) as name:
        folder = Path(name)
        (folder / "files").mkdir()
        package = build_package(ROOT, folder / "files")
        report.add("build of the source distribution, and of the wheel from it")
        report.add("contents: the package, its templates and tables; no tests", content_problems(package))
        report.add("metadata: name, version, license, classifiers, bounds", metadata_problems(package))
        report.add("description: README.md renders", description_problems(package))
        for python in package.python_versions:
            step = f"Python {python} with {', '.join(package.extras)}: "
            try:
                report.add(f"{step}{resolved(package, python, folder / 'target')} packages fit together")
            except Failure as error:
                report.add(f"{step}packages fit together", [str(error)])
        step = "installed in an empty environment, first example of the README run"
        try:
            report.add(f"{step}: {check_installed(package, folder, links_torch=settings.borrow_torch)}")
        except Failure as error:
            report.add(step, [str(error)])
        steps = list(remaining_steps(package))
        report.add("ready to publish" if settings.final else "steps before publishing", steps if settings.final else [])
        if not settings.final:
            print("".join(f"         {step}\n" for step in steps), end="")
        print(summary(package))
    return int(report.failed)


def main() -> int:
    """Run the command line; return the exit code: 2 for a usage error."""
    try:
        settings = parse(
            CheckSettings, sys.argv[1:], program="python -m release.check", epilogue="See CONTRIBUTING.md."
        )
        return 0 if settings is None else check_release(settings)
    except (UserError, Failure) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
