"""Run folders of a comparison: their files, results of other machines, and the data of runs that are compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from comparison.small import small
from gcnet.comparison import runs as runs
from gcnet.comparison.plan import Training, plan_trainings
from gcnet.comparison.results import Run, run_to_dict
from gcnet.comparison.runs import RunContext, check_same_data, require_result
from gcnet.errors import UserError
from gcnet.training.distributed import ALONE


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RunContext, list[Training]]:
    """Two trainings of each of two seeds, none of which has begun."""
    settings = small(tmp_path, tmp_path / "out", blocks="none,gc:ratio=4.5", seeds=2)
    trainings = plan_trainings(settings, epochs=1, variants={})
    return RunContext(settings, tmp_path / "out", 1, 1, {}, 4, ALONE), trainings


def finish(training: Training, context: RunContext, digest: str | None) -> None:
    """Write the result of a training, and the record of its data."""
    folder = context.path(training)
    folder.mkdir(parents=True)
    record = {} if digest is None else {"data": {"classes": ["a"], "digest": digest}}
    (folder / "config.json").write_text(json.dumps(record))
    run = Run(training.setting, training.block, training.seed, {"top1_fraction": 0.5}, 7, 0, 1.0, ())
    context.file(training, ".json").write_text(json.dumps(run_to_dict(run)))


def test_names_with_a_point_have_files_of_their_own(planned: tuple[RunContext, list[Training]]) -> None:
    context, trainings = planned
    assert [context.file(training, ".json").name for training in trainings] == [
        "main-none-seed0.json",
        "main-gc-ratio=4.5-seed0.json",
        "main-none-seed1.json",
        "main-gc-ratio=4.5-seed1.json",
    ]
    finish(trainings[1], context, "x")
    assert [context.result(training) is not None for training in trainings] == [False, True, False, False]


def test_a_result_that_does_not_appear_here_is_an_error(
    planned: tuple[RunContext, list[Training]], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trainings = planned
    monkeypatch.setattr(runs, "_VISIBLE_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"main-none-seed0 has ended on another machine, .* must share the folder"):
        require_result(trainings[0], context)
    finish(trainings[0], context, "x")
    require_result(trainings[0], context)


def test_other_data_are_an_error_for_runs_that_are_compared(planned: tuple[RunContext, list[Training]]) -> None:
    context, trainings = planned
    finish(trainings[0], context, "x")
    finish(trainings[2], context, "y")  # another seed, which may split the images in another way
    check_same_data(trainings, context)
    finish(trainings[3], context, None)  # of an earlier version
    check_same_data(trainings, context)
    finish(trainings[1], context, "z")
    sentence = "^main-none-seed0 and main-gc-ratio=4.5-seed0 have trained on different images"
    with pytest.raises(UserError, match=sentence):
        check_same_data(trainings, context)


def test_a_training_before_the_comparisons_has_a_folder_of_its_own(
    planned: tuple[RunContext, list[Training]],
) -> None:
    context, (training, *_) = planned
    first = replace(training, folder="resnet50-plain")
    assert (first.name, context.path(first)) == ("resnet50-plain", context.folder / "resnet50-plain")
    assert context.file(first, ".log") == context.folder / "resnet50-plain.log"
