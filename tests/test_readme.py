"""Every command and every example of the README runs as it stands there; of the other pages, too."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gcnet import cli
from gcnet.data.coco.issues import KINDS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def examples_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def commands_of(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.replace("\\\n", " ") for block in blocks for line in re.findall(r"(?:[^\n\\]|\\\n)+", block)]


FINE_TUNING = (ROOT / "docs" / "fine-tuning.md").read_text()
SHRINK, IMAGE_SIZE, KEEP, OWN_LOOP = examples_of(FINE_TUNING)
EXAMPLES = [*examples_of(TEXT + (ROOT / "docs" / "analysis.md").read_text()), IMAGE_SIZE, OWN_LOOP]
COMMANDS = commands_of(TEXT)


def test_the_readme_has_examples_and_commands() -> None:
    assert len(EXAMPLES) > 1
    verbs = {"train", "evaluate", "predict", "compare", "analyze", "simplify", "cost", "reproduce", "check-data"}
    assert verbs | {"models", "blocks", "sample-data"} <= {
        line.split()[1] for line in COMMANDS if line.startswith("gcnet ")
    }


def run_example(example: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.slow
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    run_example(example, tmp_path)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_knows_the_target(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_file_the_readme_points_to_is_there() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_exit_codes_are_those_of_the_command() -> None:
    table = re.search(r"\| exit code.*?\n\n", TEXT, re.DOTALL)
    assert table is not None
    assert table[0].rstrip().splitlines()[2:] == [f"| {code} | {meaning} |" for code, meaning in cli.EXIT_CODES.items()]


def test_the_number_of_kinds_of_issues_is_that_of_the_check() -> None:
    assert f": {len(KINDS)} kinds of issues" in TEXT


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
def test_the_commands_run_one_after_the_other_in_an_empty_folder(tmp_path: Path) -> None:
    for command in COMMANDS:
        if not command.startswith("make "):  # make starts this test, or what a later command does
            run_command(command, tmp_path)


@pytest.mark.slow
def test_fine_tuning_runs_as_its_page_says(data_root: Path, tmp_path: Path) -> None:
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
        run_command(command.replace("--epochs 4 --batch-size 64", "--steps 1 --batch-size 8 --no-pictures"), tmp_path)
    run_example(KEEP, tmp_path)
