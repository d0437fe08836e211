"""The files of a release: built, and checked for contents, metadata and description."""

import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from release.environments import run

_DATA_SUFFIXES = (".html", ".js", ".css", ".toml")
_LOWER_BOUNDS = (">=", "==", "~=", ">")
_STRIPPED_TAGS = re.compile(r"<\s*(script|style|iframe|form|object)\b", re.IGNORECASE)
_VERSION_CLASSIFIER = "Programming Language :: Python :: 3."


@dataclass(frozen=True)
class Package:
    """Built files of a release.

    Attributes:
        root: folder of the sources.
        wheel: the wheel, built from the source distribution.
        sdist: the source distribution.
    """

    root: Path
    wheel: Path
    sdist: Path

    @cached_property
    def names(self) -> list[str]:
        """Paths in the wheel."""
        return zipfile.ZipFile(self.wheel).namelist()

    @cached_property
    def metadata(self) -> Metadata:
        """Metadata of the wheel, validated."""
        (path,) = (name for name in self.names if name.endswith(".dist-info/METADATA"))
        return Metadata.from_email(zipfile.ZipFile(self.wheel).read(path), validate=True)

    @property
    def extras(self) -> list[str]:
        """Names of the extras for users, without dev."""
        return [str(name) for name in self.metadata.provides_extra or () if name != "dev"]

    @property
    def python_versions(self) -> list[str]:
        """Python versions of the classifiers, such as 3.11."""
        classifiers = self.metadata.classifiers or []
        return [text.rpartition(" ")[2] for text in classifiers if text.startswith(_VERSION_CLASSIFIER)]


def build_package(root: Path, output: Path) -> Package:
    """Build the source distribution, and from it the wheel.

    Args:
        root: folder of the sources.
        output: folder for both.
    """
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, root, folder=output)
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return Package(root, wheel, sdist)


def content_problems(package: Package) -> Iterator[str]:
    """Yield problems of the contents: missing sources, tests, test data, and files of unexpected kinds.

    Args:
        package: the built files.
    """
    source = package.root / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    in_package = {name for name in package.names if ".dist-info/" not in name}
    for name in sorted(expected - in_package):
        yield f"the wheel lacks {name}"
    for name in sorted(in_package):
        known = name.endswith((".py", *_DATA_SUFFIXES, "/py.typed"))
        if not name.startswith("gcnet/") or "test" in name or not known:
            yield f"the wheel holds {name}, which is neither a module nor a template or table of the package"
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in package.names):
        yield "the wheel lacks the license"
    top = package.sdist.name.removesuffix(".tar.gz")
    with tarfile.open(package.sdist) as archive:
        files = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", *(f"src/{name}" for name in expected)):
        if name not in files:
            yield f"the source distribution lacks {name}"


def metadata_problems(package: Package) -> Iterator[str]:
    """Yield problems of name, version, license, classifiers and bounds of the requirements.

    Args:
        package: the built files.
    """
    from trove_classifiers import classifiers

    metadata = package.metadata
    if metadata.name != "gcnet":
        yield f"the name must be gcnet, found {metadata.name}"
    version = str(metadata.version)
    for file, found in _versions(package.root).items():
        if found != version:
            yield f"the version must be {version} in {file} as in pyproject.toml, found {found}"
    if metadata.license_expression != "Apache-2.0" or "Apache License" not in (package.root / "LICENSE").read_text():
        yield "the license must be Apache-2.0, in the metadata and in LICENSE"
    for classifier in set(metadata.classifiers or ()) - set(classifiers):
        yield f"PyPI has no classifier {classifier}"
    allowed = metadata.requires_python or SpecifierSet()
    for python in package.python_versions:
        if python not in allowed:
            yield f"the classifiers name Python {python}, and requires-python is {allowed}"
    for requirement in metadata.requires_dist or ():
        if not _has_lower_bound(requirement):
            yield f"{requirement} has no lower bound"


def description_problems(package: Package) -> Iterator[str]:
    """Yield problems of the description, which PyPI renders from README.md.

    Args:
        package: the built files.
    """
    from markdown_it import MarkdownIt

    metadata = package.metadata
    text = metadata.description or ""
    if metadata.description_content_type != "text/markdown":
        yield f"the description must be text/markdown, found {metadata.description_content_type}"
    if text.strip() != (package.root / "README.md").read_text(encoding="utf-8").strip():
        yield "the description is not README.md"
    page = MarkdownIt("commonmark").enable("table").render(text)
    if "<h1>gcnet</h1>" not in page:
        yield "the description does not begin with the heading gcnet"
    if text.count("\n```") % 2:
        yield "a code block of the description does not end"
    for tag in sorted(set(_STRIPPED_TAGS.findall(text))):
        yield f"PyPI removes the tag {tag} of the description"


def remaining_steps(package: Package) -> Iterator[str]:
    """Yield what is left to do before the files can be published.

    Args:
        package: the built files.
    """
    version = str(package.metadata.version)
    headings = re.findall(r"^## (.+)$", (package.root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not re.fullmatch(rf"\[?{re.escape(version)}\]?, \d{{4}}-\d{{2}}-\d{{2}}", headings[0]):
        yield f'the first section of CHANGELOG.md must be "{version}, YEAR-MONTH-DAY", found "{headings[0]}"'
    if not package.metadata.project_urls:
        yield "pyproject.toml has no [project.urls]"
    targets = re.findall(r"\]\(([^)\s]+)", package.metadata.description or "")
    relative = [target for target in targets if not re.match(r"[a-z]+:|#", target)]
    if relative:
        yield f"{len(relative)} links of README.md are relative and lead nowhere on PyPI, such as {relative[0]}"


def _versions(root: Path) -> dict[str, str]:
    """The version in each file that states it."""
    source = (root / "src" / "gcnet" / "version.py").read_text(encoding="utf-8")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    patterns = {
        "src/gcnet/version.py": (r'^__version__ = "(.+)"$', source),
        "CITATION.cff": (r"^version: (.+)$", citation),
    }
    found = {file: re.search(pattern, text, re.MULTILINE) for file, (pattern, text) in patterns.items()}
    return {file: match[1] if match else "none" for file, match in found.items()} | {
        "pyproject.toml": project["version"]
    }


def _has_lower_bound(requirement: Requirement) -> bool:
    return any(bound.operator in _LOWER_BOUNDS for bound in requirement.specifier)
