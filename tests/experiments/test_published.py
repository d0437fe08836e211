"""Published results: networks that exist, numbers with a source, ratios in both tables, and lines for the terminal."""

from gcnet.experiments.published import PUBLICATIONS, PUBLISHED, PUBLISHED_RATIO_4, published_lines
from gcnet.models.registry import list_detectors, list_models, split_name

RATIOS = (PUBLISHED, PUBLISHED_RATIO_4)


def test_every_network_has_a_name_of_create_model() -> None:
    assert {*PUBLISHED, *PUBLISHED_RATIO_4} <= {*list_models(), *list_detectors()}


def test_every_value_is_a_number_with_a_source_and_every_source_is_used() -> None:
    networks = [network for table in RATIOS for network in table.values()]
    counts = [count for network in networks for count in (network.parameters, network.multiply_adds) if count]
    values = [*counts, *(score for network in networks for score in network.scores)]
    assert {value.source for value in values} == set(PUBLICATIONS)
    assert all(float(value.value) > 0 for value in values)


def test_every_block_improves_the_published_scores_of_the_plain_network() -> None:
    for table in RATIOS:
        for name, network in table.items():
            prefix, base = split_name(name)
            if prefix and base in PUBLISHED:
                pairs = zip(network.scores, PUBLISHED[base].scores, strict=False)
                assert all(float(block.value) > float(plain.value) for block, plain in pairs), name


def test_lines_of_a_classifier_include_its_mask_rcnn_with_both_ratios() -> None:
    lines = published_lines("gc_resnet50")
    assert lines[0] == "gc_resnet50: 77.70 [ECA] / 93.66 [ECA], 28.08 M parameters [ECA], 3.87 G multiply-adds [ECA]"
    assert [line.partition(":")[0] for line in lines[1:]] == ["mask_rcnn_gc_resnet50", "mask_rcnn_gc_resnet50, ratio 4"]


def test_a_detector_has_its_own_lines_and_a_network_without_results_none() -> None:
    assert published_lines("mask_rcnn_resnet50") == ["mask_rcnn_resnet50: 37.2 [O] / 33.8 [O]"]
    assert published_lines("gc_resnet18") == []
