"""Accuracy, judged by obvious loops over the same scores and by torch's own arithmetic."""

import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gcnet.data.dataset import Skipped
from gcnet.data.loader import Batch
from gcnet.errors import UserError
from gcnet.tasks.classification.metrics import ClassificationResult, evaluate_classifier

CLASSES = 7


class ScoresFromPixels(nn.Module):
    """Gives the first `CLASSES` pixels of each image as its scores, so that a test can choose them."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :CLASSES]


class AllPixels(nn.Module):
    """Gives the pixels of the first row of each image as its scores."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0]


def make_batches(images: int, *, size: int = 5, skipped: int = 0) -> list[Batch]:
    """Random scores (small integers, so that many are equal) and labels; some images left out."""
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randint(-3, 4, (images, 3, 2, 11), generator=generator).float()
    labels = torch.randint(0, CLASSES, (images,), generator=generator)
    batches = []
    for start in range(0, images, size):
        part = slice(start, start + size)
        names = [f"image{number}" for number in range(start, min(start + size, images))]
        batches.append(Batch(pixels[part], labels[part], names, []))
    for number in range(skipped):
        batches[number % len(batches)].skipped.append(Skipped(f"damaged{number:02}", "truncated"))
    return batches


def counted_by_hand(batches: list[Batch]) -> tuple[list[list[int]], int, float]:
    """Confusion matrix, hits among the best five and summed loss, one image at a time in plain Python."""
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    among_five, loss = 0, 0.0
    for batch in batches:
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            scores = image[0, 0, :CLASSES].tolist()
            order = sorted(range(CLASSES), key=lambda number: (-scores[number], number))
            confusion[label][order[0]] += 1
            among_five += label in order[:5]
            loss += math.log(sum(math.exp(score) for score in scores)) - scores[label]
    return confusion, among_five, loss


def test_every_number_equals_a_count_by_hand() -> None:
    batches = make_batches(53, skipped=3)
    result = evaluate_classifier(ScoresFromPixels(), batches, num_classes=CLASSES)
    confusion, among_five, loss = counted_by_hand(batches)
    correct = sum(confusion[label][label] for label in range(CLASSES))
    assert [list(row) for row in result.confusion] == confusion
    assert (result.images, result.correct) == (53, correct)
    assert result.top1 == correct / 53
    assert result.top5 == among_five / 53
    assert result.loss == pytest.approx(loss / 53, rel=1e-12)
    for label, share in enumerate(result.per_class):
        assert share == confusion[label][label] / sum(confusion[label])
    assert [skipped.name for skipped in result.skipped] == ["damaged00", "damaged01", "damaged02"]


def test_batches_of_any_size_even_empty_ones_give_the_same_result() -> None:
    whole = evaluate_classifier(ScoresFromPixels(), make_batches(53, size=53), num_classes=CLASSES)
    empty = Batch(torch.zeros(0, 3, 2, 11), torch.zeros(0, dtype=torch.int64), [], [])
    parts = evaluate_classifier(ScoresFromPixels(), [empty, *make_batches(53, size=2), empty], num_classes=CLASSES)
    assert parts.confusion == whole.confusion
    assert parts.top5 == whole.top5
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


def test_a_class_without_images_has_no_accuracy_and_the_result_is_plain_json() -> None:
    batch = Batch(torch.eye(11)[:2].view(2, 1, 1, 11).expand(2, 3, 2, 11), torch.tensor([0, 1]), ["a", "b"], [])
    result = evaluate_classifier(ScoresFromPixels(), [batch], num_classes=CLASSES)
    assert result.per_class == (1.0, 1.0, None, None, None, None, None)
    content = result.to_dict([f"class {number}" for number in range(CLASSES)])
    assert content["per_class"]["class 1"]["top1_fraction"] == 1.0
    assert content["per_class"]["class 6"]["top1_fraction"] is None
    assert content["images_skipped"] == 0
    assert content["confusion"][1][1] == 1


def test_worst_confusions_come_most_frequent_first() -> None:
    cells = ((0, 0, 5), (0, 1, 2), (1, 0, 4), (1, 1, 1), (1, 2, 2), (2, 2, 9))
    result = ClassificationResult(23, (), 15 / 23, (0.0, 1.0), 1.0, 0.5, (None,) * 3, cells)
    assert result.confusion == ((5, 2, 0), (4, 1, 2), (0, 0, 9))
    assert (result.correct, result.counts()) == (15, [(7, 5), (7, 1), (9, 9)])
    assert result.worst_confusions() == [(1, 0, 4), (0, 1, 2), (1, 2, 2)]
    assert result.worst_confusions(1) == [(1, 0, 4)]


def test_tens_of_thousands_of_classes_need_no_matrix() -> None:
    """ImageNet-21k: a matrix of 64-bit counts would have 3.8 GB."""
    classes = 21_841
    pixels = torch.zeros(3, 3, 1, classes)
    pixels[range(3), :, :, [7, 20_000, 20_000]] = 1
    batch = Batch(pixels, torch.tensor([7, 9, 20_000]), ["a", "b", "c"], [])
    tracemalloc.start()
    result = evaluate_classifier(AllPixels(), [batch], num_classes=classes)
    content = result.to_dict()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert content["confusion_cells"] == [[7, 7, 1], [9, 20_000, 1], [20_000, 20_000, 1]]
    assert "confusion" not in content
    assert content["per_class"]["20000"] == {"images": 1, "correct": 1, "top1_fraction": 1.0}
    assert result.worst_confusions() == [(9, 20_000, 1)]


def test_each_module_keeps_its_own_mode_and_no_gradient_is_kept() -> None:
    model = nn.Sequential(ScoresFromPixels(), nn.Identity())
    model.train()
    model[0].normalize.eval()
    evaluate_classifier(model, make_batches(5), num_classes=CLASSES)
    assert model.training
    assert model[1].training
    assert not model[0].normalize.training
    with pytest.raises(UserError):
        evaluate_classifier(model, make_batches(5), num_classes=CLASSES + 1)
    assert model.training, "the mode comes back after a failure too"


def test_a_network_with_other_outputs_than_the_data_has_classes_is_refused() -> None:
    with pytest.raises(UserError, match="the network has 7 outputs and the data 5 classes"):
        evaluate_classifier(ScoresFromPixels(), make_batches(5), num_classes=5)


def test_a_label_outside_the_classes_is_refused() -> None:
    batch = Batch(torch.zeros(1, 3, 2, 11), torch.tensor([7]), ["a"], [])
    with pytest.raises(UserError, match="labels must lie in 0 to 6; found 7 to 7"):
        evaluate_classifier(ScoresFromPixels(), [batch], num_classes=CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_refused_and_the_image_named(value: float) -> None:
    batches = make_batches(5)
    batches[0].images[3, 0, 0, 2] = value
    with pytest.raises(UserError, match="image3"):
        evaluate_classifier(ScoresFromPixels(), batches, num_classes=CLASSES)


def test_an_evaluation_without_a_readable_image_is_refused_with_the_reason() -> None:
    nothing = Batch(torch.zeros(0, 3, 2, 11), torch.zeros(0, dtype=torch.int64), [], [Skipped("a.png", "truncated")])
    with pytest.raises(UserError, match=r"all 1 were skipped, the first, a\.png: truncated"):
        evaluate_classifier(ScoresFromPixels(), [nothing], num_classes=CLASSES)
    with pytest.raises(UserError, match="at least one image"):
        evaluate_classifier(ScoresFromPixels(), [], num_classes=CLASSES)


def test_progress_counts_every_image() -> None:
    counts: list[int] = []
    evaluate_classifier(ScoresFromPixels(), make_batches(13, skipped=2), num_classes=CLASSES, progress=counts.append)
    assert counts == [6, 6, 3]


PROCESS = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as distributed
import torch.distributed.nn.functional  # before the group is made, which it would keep alive
from torch.nn.parallel import DistributedDataParallel
from test_metrics import CLASSES, ScoresFromPixels, make_batches
from gcnet.errors import UserError
from gcnet.tasks.classification.metrics import evaluate_classifier
from gcnet.training.distributed import Processes
rank = int(sys.argv[3])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
batches = make_batches(53, skipped=3)
model = DistributedDataParallel(ScoresFromPixels())
processes = Processes(rank, 2, distributed.new_group())  # the default group is that of the GPUs where there are any
groups, gather = [], distributed.all_gather_object
distributed.all_gather_object = lambda *values, group=None: (groups.append(group), gather(*values, group=group))
if rank == 0:  # no other process takes part
    assert evaluate_classifier(model.module, batches, num_classes=CLASSES).images == 53
result = evaluate_classifier(model, batches[rank::2], num_classes=CLASSES, processes=processes)
print(repr((len(batches[rank::2]), result.images, result.top5, result.loss, result.confusion, result.skipped)))
batches[1].images[2, 0, 0, 0] = float("nan")
try:
    evaluate_classifier(model, batches[rank::2], num_classes=CLASSES, processes=processes)
except UserError as error:
    print(error)
assert groups == [processes.group] * 2
del model
gc.collect()  # the model, which holds the group, is in a reference cycle
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def printed_by_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The lines of two gloo processes that share the batches: a whole evaluation, then one that fails in the second."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(store)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    return [output.splitlines() for output, _ in outputs]


def test_two_processes_with_unequal_shares_both_get_the_result_of_one(
    printed_by_two_processes: list[list[str]],
) -> None:
    first, second = (eval(lines[0]) for lines in printed_by_two_processes)
    alone = evaluate_classifier(ScoresFromPixels(), make_batches(53, skipped=3), num_classes=CLASSES)
    assert (first[0], second[0]) == (6, 5), "the shares differ in length"
    for _, images, top5, loss, confusion, skipped in (first, second):
        assert (images, top5, confusion, skipped) == (alone.images, alone.top5, alone.confusion, alone.skipped)
        assert loss == pytest.approx(alone.loss, rel=1e-12)


def test_a_failure_in_one_of_two_processes_is_raised_in_both(printed_by_two_processes: list[list[str]]) -> None:
    first, second = (lines[1] for lines in printed_by_two_processes)
    assert first == second
    assert "image7" in first
