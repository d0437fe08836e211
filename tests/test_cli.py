"""The command line: quick answers, one sentence for a mistake, and the exit codes."""

import importlib
import os
import resource
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import gcnet
from gcnet import cli
from gcnet.cli import interrupts
from gcnet.errors import UserError
from gcnet.storage import StorageError
from gcnet.tensor_files import load_tensors

HEAVY = {"torch", "torchvision", "timm", "numpy", "matplotlib", "PIL"}


QUICK = [
    (["--help"], 0),
    (["--version"], 0),
    (["trian"], 2),
    (["--hepl"], 2),
    *(([command, "--help"], 0) for command in cli.COMMANDS),
    *(([command, "--sede", "3"], 2) for command in cli.COMMANDS),
]


@dataclass(frozen=True)
class NoSettings:
    """A command without flags."""


def use_command(patch: pytest.MonkeyPatch, run: object) -> None:
    """Replace the command `blocks` by one that calls `run`."""
    patch.setitem(sys.modules, "gcnet.cli.blocks", SimpleNamespace(Settings=NoSettings, run=run))


@pytest.mark.parametrize(
    ("arguments", "code"), QUICK, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_help_and_usage_errors_take_less_than_half_a_second(arguments: list[str], code: int) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "gcnet", *arguments], capture_output=True, text=True, timeout=300)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (0 if code == 0 else 1), done.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and several attempts, so that what else the machine does counts little.
    assert any(seconds() < 0.5 for _ in range(8))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    code = f"import sys; from gcnet.cli import main; main([{command!r}, '-h']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_list_of_commands_has_the_summary_of_each(command: str) -> None:
    assert cli.COMMANDS[command] == importlib.import_module(f"gcnet.cli.{command.replace('-', '_')}").SUMMARY


def test_every_module_with_settings_is_a_command() -> None:
    names = [path.stem for path in Path(cli.__file__).parent.glob("*.py") if path.stem != "__init__"]
    modules = {name: importlib.import_module(f"gcnet.cli.{name}") for name in names}
    assert {name.replace("_", "-") for name, module in modules.items() if hasattr(module, "Settings")} == set(
        cli.COMMANDS
    )


def test_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text and summary in text for command, summary in cli.COMMANDS.items())
    assert [int(line.split()[0]) for line in text.split("exit codes:")[1].splitlines() if line] == [
        0,
        1,
        2,
        3,
        4,
        129,
        130,
        143,
    ]


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert cli.main([]) == 0
    assert capsys.readouterr().out == text


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gcnet {gcnet.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], f'unknown command "trian"; did you mean "train"? valid: {", ".join(cli.COMMANDS)}'),
        (["qqq"], f'unknown command "qqq"; valid: {", ".join(cli.COMMANDS)}'),
        (["--versoin"], 'unknown flag "--versoin"; did you mean "--version"?'),
        (["-q", "train"], 'unknown flag "-q"; a command comes first'),
        (["--model", "resnet18"], 'unknown flag "--model"; a command comes first'),
        (
            ["epochs=1"],
            'unknown command "epochs=1"; a command comes first, and flags are given as --data photos',
        ),
    ],
)
def test_an_unknown_command_suggests_the_nearest(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"gcnet: {sentence}\n"


@pytest.mark.parametrize("arguments", [["help", "blocks"], ["--help", "blocks"], ["blocks", "help"]], ids=" ".join)
def test_help_is_accepted_before_and_after_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 0
    assert "usage: gcnet blocks" in capsys.readouterr().out


def test_control_characters_never_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: NoSettings) -> int:
        raise UserError("no class \x1b[31mred\n\udce9")

    use_command(monkeypatch, run)
    assert cli.main(["blocks"]) == 2
    assert capsys.readouterr().err == "gcnet: no class \\x1b[31mred\\n\\udce9\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("the ratio is wrong"), 2, "the ratio is wrong"),
        (StorageError("the disk is full"), 1, "the disk is full"),
        (PermissionError(13, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            1,
            "torchvision cannot load its operators: it needs another version of torch, or memory is missing",
        ),
    ],
    ids=["usage", "storage", "file", "interrupt", "torchvision"],
)
def test_an_error_of_a_command_is_one_sentence_and_an_exit_code(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: NoSettings) -> int:
        raise error

    use_command(monkeypatch, run)
    assert cli.main(["blocks"]) == code
    assert capsys.readouterr().err == f"gcnet: {sentence}\n"


def test_a_missing_file_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(_: NoSettings) -> int:
        load_tensors(tmp_path / "bets.safetensors")
        return 0

    use_command(monkeypatch, run)
    assert cli.main(["blocks"]) == 2


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: NoSettings) -> int:
        raise RuntimeError("a bug")

    use_command(monkeypatch, run)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["blocks"])


def test_the_exit_code_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch, lambda _: 3)
    assert cli.main(["blocks"]) == 3


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: NoSettings) -> int:
        warnings.simplefilter("default")
        warnings.warn("a bottleneck of 2 channels", stacklevel=2)
        return 0

    use_command(monkeypatch, run)
    assert cli.main(["blocks"]) == 0
    assert capsys.readouterr().err == "gcnet: warning: a bottleneck of 2 channels\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gcnet", "--help"], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=300
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_error_that_a_library_makes_of_ctrl_c_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dispatch(_: list[str]) -> int:
        raise ImportError("cannot load module more than once per process")

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    with pytest.raises(ImportError):
        cli.main(["blocks"])
    monkeypatch.setattr(interrupts, "_received", interrupts._Received(number=signal.SIGINT))
    assert cli.main(["blocks"]) == 130
    assert capsys.readouterr().err == "gcnet: interrupted\n"


WRITING = """
import os, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from gcnet.__main__ import main
from gcnet.storage import atomic_file

def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)

def run(_):
    with atomic_file(Path("out.csv"), 0) as file:
        file.write(b"half")
        try:
            {work}
            time.sleep(30)
        finally:
            {again}
    return 0

import gcnet.cli.blocks
gcnet.cli.blocks.run, gcnet.cli.PARALLEL = run, ("blocks",)
sys.argv[1:] = ["blocks"]
sys.exit(main())
"""
NAMES = {signal.SIGTERM: "interrupted by SIGTERM", signal.SIGHUP: "interrupted by SIGHUP", signal.SIGINT: "interrupted"}


def interrupt(folder: Path, work: str, again: str = "pass", **environment: str) -> tuple[int, str]:
    """Exit code and messages of a command that does some work in the middle of a file, and more when it has ended."""
    code = WRITING.format(work=work, again=again)
    command, variables = [sys.executable, "-c", code], os.environ | environment
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", NAMES)
def test_a_signal_ends_a_command_that_writes_without_a_trace(number: signal.Signals, tmp_path: Path) -> None:
    assert interrupt(tmp_path, f"send({number:d})") == (128 + number, f"gcnet: {NAMES[number]}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_sent_twice_as_by_timeout_counts_once(tmp_path: Path) -> None:
    assert interrupt(tmp_path, "send(15)", "send(15, 1)") == (143, "gcnet: interrupted by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_and_a_late_second_signal_end_a_command_at_once(tmp_path: Path) -> None:
    assert interrupt(tmp_path, "send(15)", "send(2); time.sleep(30)") == (130, "")
    assert interrupt(tmp_path, "send(15)", "time.sleep(2.1); send(15); time.sleep(30)") == (143, "")


def test_a_forked_process_ends_by_the_signal_alone(tmp_path: Path) -> None:
    fork = "child = os.fork() or (send(15), time.sleep(30)); print(os.waitpid(child, 0)[1], file=sys.stderr); send(15)"
    assert interrupt(tmp_path, fork) == (143, "15\ngcnet: interrupted by SIGTERM\n")


def test_a_process_of_torchrun_that_writes_nothing_ends_at_once(tmp_path: Path) -> None:
    assert interrupt(tmp_path, "send(15)", WORLD_SIZE="2", RANK="1") == (-signal.SIGTERM, "")


def test_nohup_ignores_a_closed_terminal(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-c", WRITING.format(work="send(1); send(15)", again="pass")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (143, "gcnet: interrupted by SIGTERM")
