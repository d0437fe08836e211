"""The words and the table say what the numbers say, and no more."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from comparison.made_up import made_up, made_up_detectors
from gcnet.comparison.results import CONTROL, Comparison, Run, read_results, to_json
from gcnet.comparison.summary import conclusion, control_rows, headings, markdown, notes, table_rows, terminal_text
from gcnet.errors import UserError
from gcnet.tasks.classification.task import TOP1
from gcnet.text_files import markdown_table


def _with_top1(comparison: Comparison, setting: str, block: str, values: tuple[float, ...]) -> Comparison:
    def changed(run: Run) -> Run:
        return (
            replace(run, scores={"top1_fraction": values[run.seed]})
            if (run.setting, run.block) == (setting, block)
            else run
        )

    return replace(comparison, runs=tuple(map(changed, comparison.runs)))


def test_the_table_has_mean_spread_and_paired_difference() -> None:
    rows = {row[0]: row for row in table_rows(made_up())}
    # none: 70, 72, 71; gc: 90, 91, 90.5, so the differences are 20, 19, 19.5; t(0.975, 2) = 4.303.
    assert rows["none"][1:3] == ("71.0 ± 1.0", "-")
    assert rows["gc"][1:3] == ("90.5 ± 0.5", f"+19.5 ± {4.303 * 0.5 / 3**0.5:.1f}")
    assert rows["gc"][3:] == ("102,500", "2.002", "4.8", "12.0", "120")


def test_significant_gains_are_distinguished_from_others() -> None:
    text = conclusion(made_up())
    assert "significantly above the baseline: gc (+19.5" in text
    assert "no significant difference from the baseline: se (+0.3" in text
    assert "; none is significant." in text


def test_a_significant_loss_is_reported() -> None:
    worse = _with_top1(made_up(), "main", "gc", (0.50, 0.52, 0.51))
    assert "significantly below the baseline: gc (-20.0" in conclusion(worse)
    assert "se has the highest top-1 of the blocks" in conclusion(worse)


def test_significant_differences_in_the_control_setting_are_reported() -> None:
    odd = _with_top1(made_up(), CONTROL, "gc", (0.80, 0.81, 0.80))
    assert "; significant for gc." in conclusion(odd)


def test_one_seed_claims_no_spread() -> None:
    single = made_up(seeds=1)
    assert "one seed gives no standard deviation" in conclusion(single)
    assert "±" not in table_rows(single)[2][1] + table_rows(single)[2][2]
    assert "no standard deviation and no minimum detectable difference" in notes(single)[0]


def test_one_seed_gets_the_uncertainty_from_the_number_of_images() -> None:
    # 1.96 sqrt((0.7 0.3 + 0.9 0.1) / 1000) = 0.0339
    assert "(+20.0 points, ± 3.4 from the number of validation images)" in conclusion(made_up(seeds=1))


def test_perfect_runs_still_have_uncertainty() -> None:
    comparison = made_up(seeds=1)
    perfect = replace(comparison, runs=tuple(replace(run, scores={"top1_fraction": 1.0}) for run in comparison.runs))
    # Wilson of 1000 of 1000: from 1 / (1 + 1.96^2 / 1000) = 0.99617 to 1, so half of it, sqrt(2) times, is 0.0027.
    assert "± 0.3 from the number of validation images" in conclusion(perfect)


def test_the_smallest_difference_that_could_be_shown_is_stated() -> None:
    assert "minimum detectable difference: 1.2 to 1.9 points" in notes(made_up())[0]


def test_without_a_baseline_no_gain_is_claimed() -> None:
    text = conclusion(made_up(blocks=("se", "gc"), control=False))
    assert "there is no baseline (none) to compare with" in text


def test_no_block_alone_is_described() -> None:
    assert "the network without a block has a top-1 of 71.0 ± 1.0 %" in conclusion(
        made_up(blocks=("none",), control=False)
    )


def test_skipped_images_are_counted() -> None:
    comparison = made_up()
    damaged = replace(comparison, runs=tuple(replace(run, skipped=2) for run in comparison.runs))
    assert any("30 unreadable validation images" in note for note in notes(damaged))
    assert not any("unreadable" in note for note in notes(comparison))


def test_a_count_that_differs_from_the_formula_is_reported() -> None:
    comparison = made_up()
    costs = {**comparison.costs, "gc": replace(comparison.costs["gc"], analytic_flops=1)}
    assert any(
        "differ from the formula of the block for: gc" in note for note in notes(replace(comparison, costs=costs))
    )


def test_costs_that_were_not_measured_are_dashes() -> None:
    comparison = made_up()
    unmeasured = {**comparison.costs, "gc": replace(comparison.costs["gc"], peak_memory_bytes=None)}
    assert table_rows(replace(comparison, costs=unmeasured))[2][-1] == "-"
    assert table_rows(replace(comparison, costs={}))[0][3:] == ("-",) * 5


def test_detectors_are_judged_by_mask_ap_with_box_ap_beside_it() -> None:
    comparison = made_up_detectors()
    assert headings(comparison.scores)[:4] == ("block", "mask AP", "difference (points of AP)", "box AP")
    rows = {row[0]: row for row in table_rows(comparison)}
    # none: 30, 32, 31; gc: 40, 41, 40.5, so the differences are 10, 9, 9.5; t(0.975, 2) = 4.303.
    assert rows["none"][1:4] == ("31.0 ± 1.0", "-", "41.0 ± 1.0")
    assert rows["gc"][1:4] == ("40.5 ± 0.5", f"+9.5 ± {4.303 * 0.5 / 3**0.5:.1f}", "50.5 ± 0.5")
    assert rows["gc"][4:] == ("102,500", "2.002", "4.8", "12.0", "120")
    assert control_rows(comparison)[1] == ("gc", "55.3 ± 0.3", "0.0 ± 1.2", "65.3 ± 0.3")


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_word_on_detectors_is_of_accuracy_or_of_shares_of_images(seeds: int) -> None:
    comparison = made_up_detectors(seeds=seeds)
    for text in (markdown(comparison), terminal_text(comparison)):
        assert "mask AP" in text and "points of AP" in text
        assert not any(word in text for word in ("top-1", "accuracy", "Wilson", "number of validation", "(%)"))
    assert "GFLOPs are of one image of the largest size, with 1,000 proposals" in markdown(comparison)


def test_differences_of_detectors_are_in_points_of_ap() -> None:
    text = conclusion(made_up_detectors())
    assert "gc has the highest mask AP of the blocks with 40.5 ± 0.5 against 31.0 ± 1.0 without a block;" in text
    assert "significantly above the baseline: gc (+9.5 ± 1.2)" in text
    assert "the difference to no block (55.3 ± 0.6), in points of AP, is: gc (0.0 ± 1.2); none is" in text
    assert "minimum detectable difference: 1.2 points of AP" in notes(made_up_detectors())[0]


def test_of_one_seed_of_detectors_no_uncertainty_can_be_given() -> None:
    single = made_up_detectors(seeds=1)
    assert "(+10.0 points of AP); one seed gives no uncertainty" in conclusion(single)
    assert "is: gc (0.0); one seed gives no uncertainty." in conclusion(single)
    assert "no uncertainty and no minimum detectable difference" in notes(single)[0]
    assert "±" not in "".join(conclusion(single) + "".join(table_rows(single)[1]))


def test_a_markdown_table_is_aligned_and_its_cells_are_escaped() -> None:
    lines = markdown_table(("name", "n"), [("a|b", "12"), ("c", "3")]).splitlines()
    assert lines == ["| name |  n |", "| ---- | -: |", "| a\\|b | 12 |", "| c    |  3 |"]


def test_the_document_and_the_terminal_have_both_settings() -> None:
    for text in (markdown(made_up()), terminal_text(made_up())):
        assert all(heading in text for heading in headings((TOP1,)))
        assert "scenes-control" in text


@pytest.mark.parametrize("comparison", [made_up(), made_up_detectors()], ids=["classifiers", "detectors"])
def test_results_come_back_from_their_file(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(to_json(comparison))
    assert read_results(path) == comparison


def test_a_run_in_the_file_has_each_score_under_its_own_name() -> None:
    run = json.loads(to_json(made_up()))["runs"][0]
    assert (run["top1_fraction"], run["curve"][-1]["top1_fraction"]) == (0.70, 0.70)
    found = json.loads(to_json(made_up_detectors()))
    assert (found["runs"][0]["segm_AP_fraction"], found["runs"][0]["bbox_AP_fraction"]) == (0.30, 0.40)
    assert found["summary"]["main"]["gc"]["bbox_AP_fraction"]["mean"] == pytest.approx(0.505)
    assert found["summary"]["main"]["gc"]["difference_to_none_fraction"]["difference"] == pytest.approx(0.095)


def test_results_without_the_score_of_their_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(to_json(made_up()).replace('"tiny_net"', '"mask_rcnn_resnet18"'))
    with pytest.raises(UserError, match="does not hold the results"):
        read_results(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(None, "cannot read", id="missing"),
        pytest.param("{", "does not hold the results", id="not JSON"),
        pytest.param("{}", "does not hold the results", id="other JSON"),
        pytest.param("[]", "does not hold the results", id="a list"),
        pytest.param('{"format_version": 99}', "has format version 99", id="newer format"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_results(path)
