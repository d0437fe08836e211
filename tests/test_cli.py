"""The command line: quick answers, one sentence for a mistake, and the exit codes."""

import importlib
import os
import resource
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

import gcnet
from gcnet import cli
from gcnet.arguments import POSITIONAL, Argument, advanced, arguments_of
from gcnet.cli.arguments import parse
from gcnet.cli.synonyms import COMMANDS as SYNONYMS
from gcnet.cli.synonyms import FLAGS
from gcnet.cli.wording import flags_of, with_flags
from gcnet.errors import UserError
from gcnet.storage import StorageError, load_tensors

HEAVY = {"torch", "torchvision", "timm", "numpy", "matplotlib", "PIL"}
QUICK = [
    (["--help"], 0),
    (["--version"], 0),
    (["trian"], 2),
    (["--hepl"], 2),
    *(([verb, "--help"], 0) for verb in cli.COMMANDS),
    *(([verb, "--sede", "3"], 2) for verb in cli.COMMANDS),
]


@dataclass(frozen=True)
class Places:
    output: Path | None = None
    """Where."""


@dataclass(frozen=True)
class Settings:
    """Settings that have one flag of every kind."""

    model: str
    """Which."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = 3
    ratio: float | None = None
    scale: tuple[float, float] = (0.5, 1.0)
    stages: tuple[int, ...] = (3, 4, 5)
    options: tuple[str, ...] = ()
    dry_run: bool = False
    places: Places = field(default_factory=Places)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, found {self.epochs}")


@dataclass(frozen=True)
class NoSettings:
    """A verb without flags."""


@dataclass(frozen=True)
class Positionals:
    """Settings that take the model and the images without a flag."""

    model: str = field(metadata=POSITIONAL)
    images: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    threshold: float = 0.5


@dataclass(frozen=True)
class Lamp:
    """Light."""

    name: str = field(metadata=POSITIONAL)
    """Of the lamp."""
    watts: int = 60
    """Power."""
    color: tuple[float, float, float] = advanced((1.0, 1.0, 1.0))
    """Red, green and blue."""


def read(*arguments: str) -> Settings | None:
    return parse(Settings, arguments, program="gcnet train", epilogue="exit codes: none")


def use_verb(patch: pytest.MonkeyPatch, run: object) -> None:
    """Replace the verb `blocks` by one that calls `run`."""
    patch.setitem(sys.modules, "gcnet.cli.blocks", SimpleNamespace(Settings=NoSettings, run=run))


@pytest.mark.parametrize(
    ("arguments", "code"), QUICK, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_help_and_usage_errors_take_less_than_half_a_second(arguments: list[str], code: int) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "gcnet", *arguments], capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (0 if code == 0 else 1), done.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and several attempts, so that what else the machine does counts little.
    assert any(seconds() < 0.5 for _ in range(8))


@pytest.mark.parametrize("verb", cli.COMMANDS)
def test_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    code = f"import sys; from gcnet.cli import main; main([{verb!r}, '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("verb", cli.COMMANDS)
def test_every_verb_has_the_summary_that_the_list_gives(verb: str) -> None:
    assert cli.COMMANDS[verb] == importlib.import_module(f"gcnet.cli.{verb.replace('-', '_')}").SUMMARY


def test_every_module_of_the_command_that_can_run_is_a_verb() -> None:
    names = [path.stem for path in Path(cli.__file__).parent.glob("*.py") if path.stem != "__init__"]
    modules = {name: importlib.import_module(f"gcnet.cli.{name}") for name in names}
    assert {name.replace("_", "-") for name, module in modules.items() if hasattr(module, "Settings")} == set(
        cli.COMMANDS
    )


def test_help_lists_the_verbs_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text and summary in text for verb, summary in cli.COMMANDS.items())
    assert [int(line.split()[0]) for line in text.split("exit codes:")[1].splitlines() if line] == [
        0,
        1,
        2,
        3,
        129,
        130,
        143,
    ]


def test_no_arguments_at_all_answer_as_help_does(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_mistyped_verb_gets_the_nearest_one(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"gcnet: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--modle gc", 'unknown flag "--modle"; did you mean "--model"?'),
        ("--model gc --outptu=runs", 'unknown flag "--outptu"; did you mean "--output"?'),
        ("--model gc -x", 'unknown flag "-x"; gcnet train --help-all lists all flags'),
        ("extra --model gc", 'unexpected argument "extra"; gcnet train --help-all lists all flags'),
        ("--model gc extra", '--model takes one value, found "gc extra"'),
        ("--model gc --epochs 1 2", '--epochs takes one whole number, found "1 2"'),
        ("--model gc --dry-run yes", '--dry-run takes no value, found "yes"'),
        ("--model gc --scale 1 2 3", '--scale takes two numbers, found "1 2 3"'),
        ("model=gc --model gc", 'unexpected argument "model=gc"; did you mean "--model gc"?'),
        ("--model gc --optimizer adam", 'unknown --optimizer "adam"; did you mean "adamw"? valid: adamw, sgd'),
        ("--model gc --epochs 0 --sede 1", 'unknown flag "--sede"; gcnet train --help-all lists all flags'),
        ("", "gcnet train needs --model MODEL: which"),
        ("--model", "--model takes a value, found nothing"),
        ("--model gc --epochs many", '--epochs takes a whole number, found "many"'),
        ("--model gc --epochs=2.5", '--epochs takes a whole number, found "2.5"'),
        ("--model gc --ratio high", '--ratio takes a number, found "high"'),
        ("--model gc --stages 3 c4", '--stages takes whole numbers, found "3 c4"'),
        ("--model gc --scale 1 --dry-run", '--scale takes two numbers, found "1"'),
        ("--model gc --optimizer sdg", 'unknown --optimizer "sdg"; did you mean "sgd"? valid: adamw, sgd'),
        ("--model gc --epochs 0", "--epochs must be at least 1, found 0"),
        ("--model= --epochs 3", "--model is empty: give a value"),
    ],
)
def test_a_mistaken_argument_gets_one_sentence(arguments: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*arguments.split())
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["val"], 'unknown command "val"; did you mean "gcnet evaluate"?'),
        (["export"], 'unknown command "export"; did you mean "torch.onnx.export(gcnet.load_model(FILE), ...)"?'),
        (["train", "--pretrained"], 'unknown flag "--pretrained"; did you mean "--weights pretrained"?'),
        (["train", "--amp"], 'unknown flag "--amp"; did you mean "--precision bf16"?'),
        (["train", "-b", "8"], 'unknown flag "-b"; did you mean "--batch-size"?'),
        (["train", "--imgsz=224"], 'unknown flag "--imgsz"; did you mean "--image-size"?'),
        (["train", "--learning_rate", "1"], 'unknown flag "--learning_rate"; did you mean "--lr"?'),
        (["train", "--num-classes", "10"], 'unknown flag "--num-classes"; the number of classes comes from the data'),
        (["blocks", "--amp"], 'unknown flag "--amp"; gcnet blocks --help-all lists all flags'),
        (["evaluate", "a.safetensors"], "there is no model file a.safetensors"),
        (["train", "imgsz=64"], 'unexpected argument "imgsz=64"; did you mean "--image-size 64"?'),
        (["predict", "--conf", "1"], 'unknown flag "--conf"; did you mean "--threshold"?'),
        (
            ["train", "--precision", "half"],
            'unknown --precision "half"; did you mean "fp16"? valid: bf16, float32, fp16',
        ),
        (["train", "--mean", "0.5"], '--mean takes three numbers, found "0.5"'),
        (["train", "--loss", "bce"], 'unknown flag "--loss"; gcnet train --help-all lists all flags'),
        (["train", "--zzz"], 'unknown flag "--zzz"; gcnet train --help-all lists all flags'),
    ],
    ids=" ".join,
)
def test_names_of_other_tools_are_answered_with_ours(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"gcnet: {sentence}\n"


def test_every_suggested_flag_and_command_exists() -> None:
    def all_flags(command: str) -> set[str]:
        settings = importlib.import_module(f"gcnet.cli.{command.replace('-', '_')}").Settings
        return {flag for argument in arguments_of(settings) for flag in flags_of(argument)}

    valid = set().union(*map(all_flags, cli.COMMANDS))
    assert {flag for flag in FLAGS.values() if flag.split()[0] not in valid} == set()
    commands = [same.split() for same in SYNONYMS.values() if not same.startswith(("torch", "--"))]
    assert all(words[0] in cli.COMMANDS and set(words[1:2]) <= all_flags(words[0]) for words in commands)


@pytest.mark.parametrize("arguments", [["help", "blocks"], ["--help", "blocks"], ["blocks", "help"]], ids=" ".join)
def test_help_beside_a_command_is_the_help_of_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 0
    assert "usage: gcnet blocks" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["a --model b", "--model b a", "a --model=b"])
def test_the_model_may_have_its_flag_where_it_needs_none(arguments: str) -> None:
    settings = parse(Positionals, arguments.split(), program="gcnet analyze", epilogue="")
    assert settings == Positionals("b", ("a",))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("`weights` must be a file, found runs", "--weights must be a file, found runs"),
        ("no weights are published: give `weights=FILE`", "no weights are published: give --weights FILE"),
        ("plots need `plots=True`, not `plots=False`", "plots need --plots, not --no-plots"),
        ("heads must divide the channels", "heads must divide the channels"),
        ("`heads=2` of `gcnet blocks`", "heads=2 of `gcnet blocks`"),
    ],
)
def test_arguments_in_the_sentences_of_errors_are_named_as_flags(sentence: str, expected: str) -> None:
    arguments = [Argument("weights", str, None, ""), Argument("plots", bool, True, "")]
    assert with_flags(sentence, arguments) == expected


@pytest.mark.parametrize("columns", ["1", "40"])
def test_narrow_terminals_get_help_and_sentences_too(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["train", "--sede", "3"]) == 2
    assert capsys.readouterr().err == 'gcnet: unknown flag "--sede"; did you mean "--seed"?\n'
    assert cli.main(["train", "--help"]) == 0
    assert "--batch-size N" in capsys.readouterr().out
    assert os.environ["COLUMNS"] == columns


def test_control_characters_never_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: NoSettings) -> int:
        raise UserError("no class \x1b[31mred\n\udce9")

    use_verb(monkeypatch, run)
    assert cli.main(["blocks"]) == 2
    assert capsys.readouterr().err == "gcnet: no class \\x1b[31mred\\n\\udce9\n"


def test_flags_of_a_group_have_no_prefix_and_take_underscores_too() -> None:
    settings = read("--model", "gc", "--output", "runs/a", "--dry_run", "--ratio", "4", "--options", "a=b=c", "d")
    expected = Settings("gc", ratio=4.0, dry_run=True, options=("a=b=c", "d"), places=Places(Path("runs/a")))
    assert settings == expected


def test_help_of_a_verb_says_its_flags_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--model", "gc", "--help") is None
    text = capsys.readouterr().out
    assert "Settings that have one flag of every kind." in text
    assert "--output" in text
    assert text.endswith("exit codes: none\n")


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("verb", cli.COMMANDS)
def test_help_fits_the_page_and_shows_one_default_at_most(
    verb: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main([verb, "--help-all"]) == 0
    text = capsys.readouterr().out
    assert "None" not in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    for entry in text.split("\n  --"):
        assert entry.lower().count("default:") <= 1


def test_help_shows_usual_options_and_help_all_the_others_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Lamp, ["--help"], program="gcnet lamp", epilogue="") is None
    usual = capsys.readouterr().out
    assert parse(Lamp, ["--help-all"], program="gcnet lamp", epilogue="") is None
    everything = capsys.readouterr().out
    assert "--watts N   Power (default: 60)." in usual
    assert "--color" not in usual and "more options: gcnet lamp --help-all" in usual
    assert "--color F F F" in everything and "more options" not in everything
    assert "usage: gcnet lamp NAME [options]" in usual
    assert parse(Lamp, ["desk", "--color", "1", "0", "0"], program="gcnet lamp", epilogue="") == Lamp(
        "desk", color=(1, 0, 0)
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a b --threshold 1 c", Positionals("a", ("b", "c"), 1.0)),
        ("--threshold=-1 a", Positionals("a", (), -1.0)),
        ("--threshold -1 a --threshold 2", Positionals("a", (), 2.0)),
    ],
)
def test_values_without_a_flag_may_stand_anywhere_and_the_last_of_equal_flags_counts(
    arguments: str, expected: Positionals
) -> None:
    assert parse(Positionals, arguments.split(), program="gcnet analyze", epilogue="") == expected


def test_flags_are_switched_off_by_no_and_values_by_none() -> None:
    settings = read("--model", "gc", "--dry-run", "--no-dry-run", "--ratio", "4", "--ratio", "None", "--stages")
    assert settings == Settings("gc", stages=())


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("the ratio is wrong"), 2, "the ratio is wrong"),
        (StorageError("the disk is full"), 1, "the disk is full"),
        (PermissionError(13, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["usage", "storage", "file", "interrupt"],
)
def test_what_ends_a_verb_is_one_sentence_and_an_exit_code(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: NoSettings) -> int:
        raise error

    use_verb(monkeypatch, run)
    assert cli.main(["blocks"]) == code
    assert capsys.readouterr().err == f"gcnet: {sentence}\n"


def test_a_mistyped_file_is_wrong_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(_: NoSettings) -> int:
        load_tensors(tmp_path / "bets.safetensors")
        return 0

    use_verb(monkeypatch, run)
    assert cli.main(["blocks"]) == 2


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: NoSettings) -> int:
        raise RuntimeError("a bug")

    use_verb(monkeypatch, run)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["blocks"])


def test_the_code_of_a_verb_is_the_code_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    use_verb(monkeypatch, lambda _: 3)
    assert cli.main(["blocks"]) == 3


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: NoSettings) -> int:
        warnings.simplefilter("default")
        warnings.warn("a bottleneck of 2 channels", stacklevel=2)
        return 0

    use_verb(monkeypatch, run)
    assert cli.main(["blocks"]) == 0
    assert capsys.readouterr().err == "gcnet: warning: a bottleneck of 2 channels\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gcnet", "--help"], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(UserError, match="--output is empty: give a value"):
        read("--model", "gc", "--output", "")
    with pytest.raises(UserError, match="an argument of gcnet train is empty"):
        read("")


def test_ctrl_c_within_an_import_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dispatch(_: list[str]) -> int:
        raise ImportError("cannot load module more than once per process")

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    with pytest.raises(ImportError):
        cli.main(["blocks"])
    before = signal.signal(signal.SIGINT, cli._end_at_once)
    try:
        assert cli.main(["blocks"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "gcnet: interrupted\n"
