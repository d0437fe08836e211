"""The rows of tables as trainings: which network, which block, and where, at either scale."""

import pytest
import torch

from gcnet.comparison.plan import Variant, check_names, create_variant, training_settings
from gcnet.comparison.settings import CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.experiments.reproduce import comparison_settings, find_tables, train_tables
from gcnet.experiments.rows import build_linear_bottleneck
from gcnet.experiments.scales import series_of
from gcnet.experiments.settings import ReproduceSettings
from gcnet.experiments.tables import TABLES
from gcnet.insertion import insertion_records
from gcnet.models.registry import is_detector


def test_equal_rows_are_trained_once() -> None:
    (series,) = series_of(find_tables(("design", "ratio", "position", "pooling-fusion")), small=False)
    assert series.model == "mask_rcnn_resnet50"
    assert {row: name for row, name in series.names.items() if name in ("none", "+all GC")} == {
        ("design", "baseline"): "none",
        ("ratio", "baseline"): "none",
        ("position", "baseline"): "none",
        ("pooling-fusion", "baseline"): "none",
        ("design", "+all GC"): "+all GC",
        ("ratio", "ratio 16"): "+all GC",
        ("position", "after1x1"): "+all GC",
        ("pooling-fusion", "att+add"): "+all GC",
    }
    assert len(series.variants) == 2 + 3 + 3 + 2 + 3


def test_the_small_rows_have_the_sites_and_ratios_of_a_small_network() -> None:
    (series,) = series_of(find_tables(("design", "stages", "ratio", "bottleneck")), small=True)
    assert series.model == "cifar_resnet20"
    one = {"stages": (2,), "blocks": (-2,), "position": "after_add"}
    assert series.variants["+1 NL"] == Variant("nl_embedded_gaussian", placement=one)
    assert series.variants["+1 GC"] == Variant("gc", placement=one)
    assert series.variants["c3"] == Variant("gc", placement={"stages": (1,)})
    assert series.variants["ratio 32"] == Variant("gc", placement={"ratio": 8})
    assert series.variants["r16"] == Variant(build_linear_bottleneck)
    assert series.variants["+all GC"] == Variant("gc")


def test_rows_without_a_counterpart_in_small_networks_are_skipped() -> None:
    (series,) = series_of(find_tables(("position",)), small=True)
    assert [label for _, label in series.names] == ["baseline", "afterAdd", "after1x1"]
    assert [label for one in series_of(find_tables(("backbones",)), small=True) for _, label in one.names] == [
        *("R50", "R50 +GC r16", "R50 +GC r4"),
        *("R101", "R101 +GC r16", "R101 +GC r4"),
    ]


@pytest.mark.filterwarnings("ignore:LayerNorm over 2 channels")
@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.slow
def test_every_row_builds_and_differs_from_the_others(scale: str) -> None:
    for series in series_of(TABLES, small=scale == "small"):
        compared = CompareSettings(model=series.model, ratio=4, blocks=",".join(series.variants))
        check_names(compared, series.variants)
        found = []
        for name in series.variants:
            if is_detector(series.model):
                continue  # tests/experiments/test_tables.py builds these
            with torch.device("meta"):
                found.append(insertion_records(create_variant(compared, name, series.variants, 10)))
        assert all(found.count(one) == 1 for one in found)


def test_the_full_protocol_of_coco_is_the_papers_with_norms_over_all_images() -> None:
    settings = ReproduceSettings(table=("design",), scale="full", weights="backbone.pth", data=DataSettings("coco"))
    (series,) = series_of(find_tables(settings.table), small=False)
    compared = comparison_settings(settings, series)
    training = training_settings(compared, "+1 NL", series.variants)
    assert (training.recipe.preset, training.detector.norm) == ("paper-1x", "sync")
    assert (training.detector.backbone_weights, training.network.weights) == ("backbone.pth", None)
    assert (training.network.block, training.network.stages, training.network.blocks) == (
        "nl_embedded_gaussian",
        (4,),
        (-2,),
    )
    assert compared.seed_numbers() == (0,)


def test_small_networks_are_fine_tuned_from_weights_or_trained_from_scratch() -> None:
    (series,) = series_of(find_tables(("imagenet",)), small=True)
    for weights, preset in (("resnet20.th", "finetune"), (None, "scratch")):
        settings = ReproduceSettings(table=("imagenet",), scale="small", weights=weights)
        compared = comparison_settings(settings, series)
        assert (compared.recipe.preset, compared.weights, len(compared.seed_numbers())) == (preset, weights, 3)


def test_settings_that_do_not_fit_the_networks_are_refused_before_training() -> None:
    with pytest.raises(UserError, match="have several networks: cifar_resnet20, cifar_resnet56"):
        train_tables(ReproduceSettings(table=("backbones",), scale="small", weights="resnet20.th"))
    with pytest.raises(UserError, match="`data` takes a COCO directory"):
        train_tables(ReproduceSettings(table=("design",), scale="full", weights="pretrained"))
