"""No command line ends in a traceback, whatever its flags, folders and files are."""

import io
import json
import os
import shlex
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cli.random_commands import CommandLines, Pool, write_pool
from gcnet import cli
from gcnet.data.scenes import Scenes

CODES = {cli.EXIT_OK, cli.EXIT_FAILURE, cli.EXIT_USAGE, cli.EXIT_NON_FINITE}
# Of 100 command lines, how many are of each kind; trainings and evaluations are those that can go wrong most.
SHARES = {
    "train classifier": 32,
    "resume": 6,
    "train detector": 12,
    "evaluate": 18,
    "predict": 14,
    "analyze": 5,
    "check data": 8,
    "cost": 3,
    "list": 2,
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return write_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the images that are opened or generated."""
    count: Counter[str] = Counter()
    open_file, read_scene = PIL.Image.open, Scenes.read

    def counted_open(*arguments: object, **options: object) -> PIL.Image.Image:
        count["images"] += 1
        return open_file(*arguments, **options)  # type: ignore[arg-type]

    def counted_read(self: Scenes, index: int) -> PIL.Image.Image:
        count["images"] += 1
        return read_scene(self, index)

    monkeypatch.setattr(PIL.Image, "open", counted_open)
    monkeypatch.setattr(Scenes, "read", counted_read)
    yield count


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("total", [200, pytest.param(2000, marks=pytest.mark.scale)])
def test_a_random_command_ends_with_a_documented_exit_code_and_one_sentence(
    kind: str, total: int, pool: Pool, images_read: Counter[str], tmp_path: Path
) -> None:
    ran: Counter[str] = Counter()

    @settings(
        max_examples=total * SHARES[kind] // 100,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        line = CommandLines(pool, seed).line(kind)
        if seed % 3 == 0 and kind not in ("list", "resume"):
            line += ["--output", "result.png" if kind == "predict" else "result"]
        note(f"gcnet {shlex.join(line)}")
        place = tmp_path / "work"
        place.mkdir()
        if kind == "resume":
            shutil.copytree(pool.run, place / "run")
        before = images_read["images"]
        try:
            code, errors = answer(line, place)
        finally:
            shutil.rmtree(place)
        ran["commands"] += 1
        ran["reached data"] += images_read["images"] > before
        ran[f"exit {code}"] += 1
        assert code in CODES
        assert "Traceback" not in errors
        if code in (cli.EXIT_USAGE, cli.EXIT_NON_FINITE):
            assert errors.splitlines()[-1].startswith("gcnet: "), errors

    run()
    if results := os.environ.get("GCNET_RANDOM_COMMANDS"):
        with Path(results).open("a") as file:
            file.write(json.dumps({"kind": kind, "total": total, **ran}) + "\n")
    if kind in ("train classifier", "train detector", "evaluate", "predict"):
        assert ran["reached data"] >= 0.4 * ran["commands"], ran


def answer(line: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a command line, run in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(output), redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("default")
        code = cli.main(line)
    return code, errors.getvalue()
