"""Names of other tools suggest the names here."""

import importlib

import pytest

from gcnet import cli
from gcnet.arguments import arguments_of
from gcnet.cli.synonyms import COMMAND_SYNONYMS, FLAGS
from gcnet.cli.wording import flags_of


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["val"], 'unknown command "val"; did you mean "gcnet evaluate"?'),
        (["quantize"], 'unknown command "quantize"; did you mean "gcnet export --precision int8"?'),
        (["train", "--pretrained"], 'unknown flag "--pretrained"; did you mean "--weights pretrained"?'),
        (["train", "--amp"], 'unknown flag "--amp"; did you mean "--precision bf16"?'),
        (["train", "-b", "8"], 'unknown flag "-b"; did you mean "--batch-size"?'),
        (["train", "--imgsz=224"], 'unknown flag "--imgsz"; did you mean "--image-size"?'),
        (["train", "--learning_rate", "1"], 'unknown flag "--learning_rate"; did you mean "--lr"?'),
        (["train", "--num-classes", "10"], 'unknown flag "--num-classes"; the number of classes comes from the data'),
        (["blocks", "--amp"], 'unknown flag "--amp"; gcnet blocks --help lists all flags'),
        (["evaluate", "a.safetensors"], "there is no model file a.safetensors"),
        (["train", "imgsz=64"], 'unexpected argument "imgsz=64"; did you mean "--image-size 64"?'),
        (["predict", "--conf", "1"], 'unknown flag "--conf"; did you mean "--threshold"?'),
        (
            ["train", "--precision", "half"],
            'unknown --precision "half"; did you mean "fp16"? valid: auto, bf16, float32, fp16',
        ),
        (["train", "--mean", "0.5"], '--mean takes three numbers, found "0.5"'),
        (["train", "--loss", "bce"], 'unknown flag "--loss"; gcnet train --help-all lists all flags'),
        (["train", "--zzz"], 'unknown flag "--zzz"; gcnet train --help-all lists all flags'),
    ],
    ids=" ".join,
)
def test_names_of_other_tools_suggest_ours(
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
    commands = [same.split() for same in COMMAND_SYNONYMS.values() if not same.startswith(("torch", "--"))]
    assert all(words[0] in cli.COMMANDS and set(words[1:2]) <= all_flags(words[0]) for words in commands)
