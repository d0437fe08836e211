"""Problems of release files are found."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from gcnet.errors import Failure
from release.check import Report, first_example
from release.environments import run
from release.package import Package, content_problems, description_problems, metadata_problems, remaining_steps

_METADATA = """\
Metadata-Version: 2.4
Name: gcnet
Version: 1.2.3
Summary: Test.
License-Expression: Apache-2.0
Classifier: Programming Language :: Python :: 3.11
Requires-Python: >=3.11
Requires-Dist: numpy>=1.26
Provides-Extra: demo
Provides-Extra: dev
Requires-Dist: gradio{bound}; extra == 'demo'
Description-Content-Type: text/markdown

{readme}"""
_README = "# gcnet\n\n[Docs](docs/page.md), [paper](https://arxiv.org/abs/1904.11492)\n"


def _package(root: Path, *, version: str = "1.2.3", bound: str = ">=6", more: dict[str, str] | None = None) -> Package:
    """A small package with its sources."""
    sources = {
        "src/gcnet/version.py": f'__version__ = "{version}"\n',
        "src/gcnet/table.toml": "",
        "LICENSE": "Apache License\n",
        "README.md": _README,
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3, 2026-01-31\n",
        "CITATION.cff": "version: 1.2.3\n",
        "pyproject.toml": '[project]\nversion = "1.2.3"\n',
    }
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    package = Package(root, root / "gcnet-1.2.3-py3-none-any.whl", root / "gcnet-1.2.3.tar.gz")
    with zipfile.ZipFile(package.wheel, "w") as wheel:
        for name in ("src/gcnet/version.py", "src/gcnet/table.toml"):
            wheel.writestr(name.removeprefix("src/"), sources[name])
        wheel.writestr("gcnet-1.2.3.dist-info/METADATA", _METADATA.format(bound=bound, readme=_README))
        wheel.writestr("gcnet-1.2.3.dist-info/licenses/LICENSE", sources["LICENSE"])
        for name, text in (more or {}).items():
            wheel.writestr(name, text)
    with tarfile.open(package.sdist, "w:gz") as archive:
        for name in sources:
            archive.addfile(tarfile.TarInfo(f"gcnet-1.2.3/{name}"), io.BytesIO())
    return package


def test_a_correct_package_has_no_problems(tmp_path: Path) -> None:
    package = _package(tmp_path)
    assert list(content_problems(package)) == []
    assert list(metadata_problems(package)) == []
    assert list(description_problems(package)) == []
    assert (package.extras, package.python_versions) == (["demo"], ["3.11"])


def test_tests_data_and_missing_files_in_the_wheel_are_problems(tmp_path: Path) -> None:
    package = _package(tmp_path, more={"gcnet/tests/test_a.py": "", "tests/b.py": "", "gcnet/photo.jpg": ""})
    (tmp_path / "src" / "gcnet" / "page.css").write_text("")
    problems = list(content_problems(package))
    assert "the wheel lacks gcnet/page.css" in problems
    assert "the source distribution lacks src/gcnet/page.css" in problems
    for name in ("gcnet/tests/test_a.py", "tests/b.py", "gcnet/photo.jpg"):
        assert any(problem.startswith(f"the wheel holds {name}, ") for problem in problems)


def test_another_version_and_a_requirement_without_bound_are_problems(tmp_path: Path) -> None:
    problems = list(metadata_problems(_package(tmp_path, version="1.2.4", bound="<7")))
    assert "the version must be 1.2.3 in src/gcnet/version.py as in pyproject.toml, found 1.2.4" in problems
    assert any("gradio<7" in problem and problem.endswith("has no lower bound") for problem in problems)


def test_steps_before_publishing_are_listed(tmp_path: Path) -> None:
    package = _package(tmp_path)
    assert list(remaining_steps(package)) == [
        "pyproject.toml has no [project.urls]",
        "1 links of README.md are relative and lead nowhere on PyPI, such as docs/page.md",
    ]
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    assert 'must be "1.2.3, YEAR-MONTH-DAY", found "Unreleased"' in next(remaining_steps(package))


def test_a_report_has_failed_after_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add("first")
    assert not report.failed
    report.add("second", ["a reason"])
    report.add("third")
    assert report.failed
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "FAILED", "a", "ok"]


def test_the_first_example_is_the_first_python_block() -> None:
    assert first_example("```sh\nls\n```\n```python\na = 1\n```\n```python\nb = 2\n```") == "a = 1\n"
    with pytest.raises(Failure, match="no Python example"):
        first_example("text")


def test_a_program_that_fails_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"failed with 3:\nreason"):
        run("sh", "-c", "echo reason; exit 3", folder=tmp_path)
