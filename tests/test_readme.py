"""The README and the pages of docs/ agree with the package (`tests/docs/test_code_blocks.py` runs their code)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gcnet import cli
from gcnet.data.coco.issues import ISSUE_KINDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXT = (ROOT / "README.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()


def examples_of(text: str) -> list[str]:
    return re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)


def commands_of(text: str) -> list[str]:
    blocks = re.findall(r"```sh[^\n]*\n(.*?)```", text, re.DOTALL)
    return [line.replace("\\\n", " ") for block in blocks for line in re.findall(r"(?:[^\n\\]|\\\n)+", block)]


FINE_TUNING = (ROOT / "docs" / "fine-tuning.md").read_text()
SHRINK, _DOWNLOAD, _IMAGE_SIZE, KEEP, _OWN_LOOP = examples_of(FINE_TUNING)
COMMANDS = commands_of(COMMAND_LINE)
CLONE = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/installation.md"))
TARGETS = sorted(set(re.findall(r"(?:`|^ *)make ([a-z-]+)", CLONE, re.MULTILINE)))


def test_every_command_has_an_example() -> None:
    assert set(cli.COMMANDS) == {line.split()[1] for line in COMMANDS if line.startswith("gcnet ")}


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert len(TEXT.split()) <= 1000


def run_example(example: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(["make", target, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_every_link_between_pages_leads_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def test_the_exit_codes_are_those_of_the_command() -> None:
    table = re.search(r"\| exit code.*", COMMAND_LINE, re.DOTALL)
    assert table is not None
    assert table[0].rstrip().splitlines()[2:] == [f"| {code} | {meaning} |" for code, meaning in cli.EXIT_CODES.items()]


def test_the_number_of_kinds_of_issues_is_that_of_the_check() -> None:
    assert f" {len(ISSUE_KINDS)} kinds of issues" in COMMAND_LINE


def test_the_folder_map_names_every_part_of_the_package() -> None:
    folders = (ROOT / "CONTRIBUTING.md").read_text()
    parts = [f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "src" / "gcnet").glob("[a-z]*")]
    assert [part for part in parts if f"`{part}`" not in folders and part != "py.typed"] == []


def run_command(command: str, folder: Path) -> None:
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.slow
def test_commands_of_the_fine_tuning_page_run(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "resnet20-12fca82f.th").symlink_to(data_root / "weights-resnet-cifar10" / "resnet20-12fca82f.th")
    for folder in (data_root / "imagenette224").glob("*/*"):
        here = tmp_path / "imagenette224" / folder.parent.name / folder.name
        here.mkdir(parents=True)
        for image in sorted(folder.glob("*.JPEG"))[:3]:
            (here / image.name).symlink_to(image)
    run_example(SHRINK, tmp_path)
    worked_example = [command for command in commands_of(FINE_TUNING) if "imagenette32" in command]
    assert len(worked_example) == 4
    for command in worked_example:  # the others download published weights
        run_command(command.replace("--epochs 4 --batch-size 64", "--steps 1 --batch-size 8 --no-plots"), tmp_path)
    run_example(KEEP, tmp_path)
