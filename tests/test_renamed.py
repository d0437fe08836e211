"""Old names: the sentence about each, and files of earlier and of later versions."""

import json
from pathlib import Path

import pytest

import gcnet
from gcnet.cli import main
from gcnet.errors import Failure, UserError
from gcnet.renamed import FORMAT_VERSION, SETTINGS, VALUES, format_version, new_flag, new_name, upgraded_settings
from gcnet.training.settings import TrainSettings, override


def test_every_new_name_is_a_setting_and_no_old_one_is():
    names = {group: set(values) for group, values in TrainSettings().to_dict().items()}
    for group in SETTINGS.keys() & names.keys():
        model_options = {"fpn_channels", "head_width"}  # of `build_mask_rcnn` only
        assert set(SETTINGS[group].values()) - model_options <= names[group], group
        assert not names[group] & SETTINGS[group].keys(), group


@pytest.mark.parametrize(
    ("command", "flag", "new"),
    [
        ("train", "--options", "--block-options"),
        ("train", "--accumulate", "--grad-accumulation"),
        ("train", "--no-pictures", "--no-plots"),
        ("train", "--crop", "--crop-pct"),
        ("compare", "--at", "--insert-at"),
        ("compare", "--short_side", "--min-size"),
        ("evaluate", "--root", "--download-dir"),
        ("check-data", "--listed", "--max-listed"),
        ("predict", "--top", "--topk"),
    ],
)
def test_an_old_flag_is_answered_with_the_new_one(command, flag, new, capsys):
    assert main([command, flag, "3"]) == 2
    assert capsys.readouterr().err == f"gcnet: {flag} is now {new}\n"


def test_an_old_value_is_answered_with_the_new_one(capsys):
    for flag, old, new in (
        ("--norm", "fixed", "eval_stats"),
        ("--preset", "1x", "paper-1x"),
        ("--preset", "2x", "paper-2x"),
    ):
        assert main(["train", flag, old]) == 2
        assert f'did you mean "{new}"' in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), [("clip_norm", "clip_grad_norm"), ("jitter", "large_scale_jitter")])
def test_an_old_argument_is_answered_with_the_new_one(old, new):
    for call in (gcnet.train, gcnet.compare):
        with pytest.raises(UserError, match=f"^{old} is now {new}$"):
            call(**{old: 3})
    with pytest.raises(UserError, match=f"^{old} is now {new}$"):
        override(TrainSettings(), **{old: 3})


def test_an_old_option_of_a_detector_is_answered_with_the_new_one():
    with pytest.raises(UserError, match="^regions is now rois_per_image$"):
        gcnet.create_model("mask_rcnn_scenes_resnet", detector={"regions": 8})


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_is_refused_in_one_sentence(version):
    with pytest.raises(UserError, match=rf"^a\.json has format version {version}, .* reads up to {FORMAT_VERSION}: "):
        format_version({"format_version": version}, "a.json")


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True, None])
def test_a_format_version_that_is_no_positive_integer_is_damage(version):
    with pytest.raises(Failure, match="format_version must be a positive integer"):
        format_version({"format_version": version}, "a.json")
    assert format_version({}, "a.json") == 1


def test_upgraded_settings_keep_every_value_and_can_be_upgraded_again():
    old = {"recipe": {"accumulate": 3, "lr": 0.5}, "augment": {"crop": "pad", "rand_augment": "trivial"}}
    new = {
        "recipe": {"grad_accumulation": 3, "lr": 0.5},
        "augment": {"random_crop": "pad", "auto_augment": "trivialaugment"},
    }
    assert upgraded_settings(old) == new == upgraded_settings(new)


def test_names_and_values_change_once():
    renames = [*SETTINGS.values(), *VALUES.values()]
    assert all(not names.keys() & set(names.values()) for names in renames)
    assert new_name("warmup_from") == "warmup_start_factor" and new_name("lr") == ""
    assert new_flag("--warmup-from") == "--warmup-start-factor" and new_flag("--lr") == ""


def test_a_run_folder_of_a_newer_format_is_refused(tmp_path: Path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"format_version": 7, "settings": {"network": {"size": 3}}}))
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "has format version 7" in capsys.readouterr().err
