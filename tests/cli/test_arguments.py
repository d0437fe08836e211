"""Command-line arguments become settings; usage errors are one sentence."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gcnet.arguments import POSITIONAL
from gcnet.cli.arguments import parse
from gcnet.errors import UserError


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
class Positionals:
    """Settings that take the model and the images without a flag."""

    model: str = field(metadata=POSITIONAL)
    images: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    threshold: float = 0.5


def read(*arguments: str) -> Settings | None:
    return parse(Settings, arguments, program="gcnet train", epilogue="exit codes: none")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--modle gc", 'unknown flag "--modle"; did you mean "--model"?'),
        ("--model gc --outptu=runs", 'unknown flag "--outptu"; did you mean "--output"?'),
        ("--model gc -x", 'unknown flag "-x"; gcnet train --help lists all flags'),
        ("extra --model gc", 'unexpected argument "extra"; gcnet train --help lists all flags'),
        ("--model gc extra", '--model takes one value, found "gc extra"'),
        ("--model gc --epochs 1 2", '--epochs takes one whole number, found "1 2"'),
        ("--model gc --dry-run yes", '--dry-run takes no value, found "yes"'),
        ("--model gc --scale 1 2 3", '--scale takes two numbers, found "1 2 3"'),
        ("model=gc --model gc", 'unexpected argument "model=gc"; did you mean "--model gc"?'),
        ("--model gc --optimizer adam", 'unknown --optimizer "adam"; did you mean "adamw"? valid: adamw, sgd'),
        ("--model gc --epochs 0 --sede 1", 'unknown flag "--sede"; gcnet train --help lists all flags'),
        ("", "gcnet train needs --model MODEL: which"),
        ("--model", "--model takes a value, found nothing"),
        ("--model gc --epochs many", '--epochs takes a whole number, found "many"'),
        ("--model gc --epochs=2.5", '--epochs takes a whole number, found "2.5"'),
        ("--model gc --ratio high", '--ratio takes a number, found "high"'),
        ("--model gc --stages 3 c4", '--stages takes whole numbers, found "3 c4"'),
        ("--model gc --scale 1 --dry-run", '--scale takes two numbers, found "1"'),
        ("--model gc --optimizer sdg", 'unknown --optimizer "sdg"; did you mean "sgd"? valid: adamw, sgd'),
        ("--model gc --epochs 0", "--epochs must be at least 1, found 0"),
        ("--model gc --options --dry-run", "--options takes values, found nothing"),
        ("--model= --epochs 3", "--model is empty: give a value"),
    ],
)
def test_a_usage_error_is_one_sentence(arguments: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*arguments.split())
    assert str(caught.value) == sentence


@pytest.mark.parametrize("arguments", ["a --model b", "--model b a", "a --model=b"])
def test_a_positional_model_may_be_given_as_a_flag(arguments: str) -> None:
    settings = parse(Positionals, arguments.split(), program="gcnet analyze", epilogue="")
    assert settings == Positionals("b", ("a",))


def test_flags_of_groups_have_no_prefix_and_accept_underscores() -> None:
    settings = read("--model", "gc", "--output", "runs/a", "--dry_run", "--ratio", "4", "--options", "a=b=c", "d")
    expected = Settings("gc", ratio=4.0, dry_run=True, options=("a=b=c", "d"), places=Places(Path("runs/a")))
    assert settings == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a b --threshold 1 c", Positionals("a", ("b", "c"), 1.0)),
        ("--threshold=-1 a", Positionals("a", (), -1.0)),
        ("--threshold -1 a --threshold 2", Positionals("a", (), 2.0)),
    ],
)
def test_positional_values_are_accepted_anywhere_and_the_last_of_repeated_flags_wins(
    arguments: str, expected: Positionals
) -> None:
    assert parse(Positionals, arguments.split(), program="gcnet analyze", epilogue="") == expected


def test_no_turns_a_flag_off_and_none_removes_a_value() -> None:
    settings = read("--model", "gc", "--dry-run", "--no-dry-run", "--ratio", "4", "--ratio", "None", "--stages")
    assert settings == Settings("gc", stages=())


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(UserError, match="--output is empty: give a value"):
        read("--model", "gc", "--output", "")
    with pytest.raises(UserError, match="an argument of gcnet train is empty"):
        read("")


def test_a_number_or_a_word_is_taken_where_both_are_valid() -> None:
    from gcnet.cli.train import Settings

    sizes = [parse(Settings, ["--batch-size", word], program="gcnet train", epilogue="") for word in ("auto", "64")]
    assert [settings.recipe.batch_size for settings in sizes if settings] == ["auto", 64]
    with pytest.raises(UserError, match='--batch-size takes a whole number or auto, found "automatic"'):
        parse(Settings, ["--batch-size", "automatic"], program="gcnet train", epilogue="")
