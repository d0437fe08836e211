from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.data.dataset import ClassificationDataset
from gcnet.data.images.folders import FolderImages
from gcnet.data.images.open import choose_preprocessing, open_data, open_evaluation
from gcnet.data.images.sources import ImageSource
from gcnet.data.loader import build_loader
from gcnet.data.sampler import EvaluationSampler
from gcnet.data.settings import AugmentSettings, DataSettings, Preprocessing
from gcnet.errors import UserError


def make_folder(root: Path, size: tuple[int, int] = (32, 32), splits: tuple[str, ...] = ("train", "val")) -> str:
    for split in splits:
        for label, name in enumerate(("ant", "bee", "cat")):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", size, (label, number, 7)).save(root / split / name / f"{number}.png")
    return str(root)


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        ((32, 32), {}, (32, None, "pad")),
        ((64, 64), {}, (64, None, "pad")),
        ((65, 65), {}, (224, 256, "resized")),
        ((32, 31), {}, (224, 256, "resized")),
        ((224, 224), {}, (224, None, "resized")),
        ((224, 224), {"image_size": 128}, (128, 146, "resized")),
        ((300, 200), {"image_size": 64}, (64, 73, "resized")),
        ((32, 32), {"image_size": 32, "resize": 40}, (32, 40, "resized")),
    ],
)
def test_the_median_size_of_the_images_gives_the_default_input_size(
    size: tuple[int, int], given: dict[str, int], expected: tuple[int, int | None, str], tmp_path: Path
) -> None:
    splits = open_data(DataSettings(data=make_folder(tmp_path, size), interpolation="bicubic", **given))
    found = splits.preprocessing
    assert (found.image_size, found.resize, found.interpolation) == (*expected[:2], "bicubic")
    assert splits.train_transform(AugmentSettings()).crop == expected[2]
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_damaged_images_in_front_do_not_hide_the_size(tmp_path: Path) -> None:
    data = make_folder(tmp_path)
    for number in range(3):
        (tmp_path / "train" / "ant" / f"{number}.png").write_bytes(b"")
    assert open_data(DataSettings(data=data)).preprocessing == Preprocessing(32)
    for path in (tmp_path / "train").glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 12 images can be read; .*empty file"):
        open_data(DataSettings(data=data))


def test_a_folder_gives_both_parts_with_the_same_classes(tmp_path: Path) -> None:
    data = make_folder(tmp_path)
    for path in (tmp_path / "val" / "ant").iterdir():
        path.unlink()
    (tmp_path / "val" / "ant").rmdir()
    splits = open_data(DataSettings(data=data))
    assert splits.classes == splits.train.classes == splits.val.classes == ("ant", "bee", "cat")
    assert (len(splits.train), len(splits.val)) == (12, 8)
    assert splits.val.label(0) == 1
    assert isinstance(splits.train, ImageSource) and not splits.generated


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    data = make_folder(tmp_path)
    (tmp_path / "val" / "cats").mkdir()
    with pytest.raises(UserError, match='val: class "cats" is not one of the 3 known classes; did you mean "cat"'):
        open_data(DataSettings(data=data))


def test_limits_keep_the_shares_of_the_classes(tmp_path: Path) -> None:
    splits = open_data(DataSettings(data=make_folder(tmp_path), limit_train=6, limit_val=3))
    assert [splits.train.label(i) for i in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [splits.val.name(i) for i in range(3)] == ["ant/0.png", "bee/0.png", "cat/0.png"]


def test_a_csv_with_splits_gives_both_parts(tmp_path: Path) -> None:
    make_folder(tmp_path)
    rows = [f"{s}/{c}/{n}.png,{c},{s}" for s in ("train", "val") for c in ("bee", "ant") for n in (0, 1)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    splits = open_data(DataSettings(data=str(tmp_path / "list.csv")))
    assert splits.classes == ("ant", "bee")
    assert [splits.val.name(i) for i in range(4)] == [f"val/{c}/{n}.png" for c in ("bee", "ant") for n in (0, 1)]
    assert splits.preprocessing == Preprocessing(32)


REFUSED = {
    "scens": 'unknown data "scens"; did you mean "scenes"',
    "cifar": 'unknown data "cifar"; did you mean "cifar100?"',
    "zzzzzz": 'unknown data "zzzzzz"; valid: scenes, scenes-control, cifar10, cifar100, a folder',
    "no/such/folder": r'nothing at "no/such/folder" \(tried /.*no/such/folder\); expected .*train/CLASS',
    "list.csv": 'nothing at "list.csv"',
}


@pytest.mark.parametrize("data", REFUSED)
def test_missing_data_is_one_sentence_with_the_resolved_path(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=REFUSED[data]):
        open_data(DataSettings(data=data))


def test_other_files_and_folders_without_splits_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(
        UserError, match=r"takes a folder, a .csv file, a URL of a folder or shards \(.tar\), found the file"
    ):
        open_data(DataSettings(data=str(tmp_path / "a.txt")))
    with pytest.raises(UserError, match='no class folders in ".*"; expected .*/train/CLASS'):
        open_data(DataSettings(data=str(tmp_path)))


def test_missing_cifar_is_an_error_at_once_without_network_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("socket.getaddrinfo", "socket.socket.connect", "time.sleep"):
        monkeypatch.setattr(name, lambda *_, name=name: calls.append(name))
    with pytest.raises(UserError, match="pass `download`"):
        open_data(DataSettings(data="cifar10", download_dir=str(tmp_path)))
    assert calls == []


def test_evaluation_takes_val_or_else_the_whole_folder_or_csv(tmp_path: Path) -> None:
    make_folder(tmp_path / "both")
    make_folder(tmp_path, splits=("flat",))
    (tmp_path / "flat" / "list.csv").write_text("path,label\nbee/0.png,bee\nant/1.png,ant\n")
    for data, names in (
        ("both", ["ant/0.png", "ant/1.png"]),
        ("flat", ["ant/0.png", "ant/1.png"]),
        ("flat/list.csv", ["bee/0.png", "ant/1.png"]),
    ):
        source, preprocessing = open_evaluation(DataSettings(data=str(tmp_path / data)))
        assert [source.name(i) for i in range(2)] == names
        assert preprocessing == Preprocessing(32)


def test_evaluation_follows_the_class_order_of_the_network(tmp_path: Path) -> None:
    settings = DataSettings(data=make_folder(tmp_path), limit_val=3)
    source, _ = open_evaluation(settings, classes=("cat", "dog", "bee", "ant"))
    assert source.classes == ("cat", "dog", "bee", "ant")
    assert [source.label(i) for i in range(3)] == [3, 2, 0]
    with pytest.raises(UserError, match='class "ant" is not one of the 2 known classes'):
        open_evaluation(settings, classes=("bee", "cat"))
    assert [open_evaluation(settings)[0].label(i) for i in range(3)] == [0, 1, 2]


def test_evaluation_uses_the_class_order_of_training_by_default(tmp_path: Path) -> None:
    data = make_folder(tmp_path)
    for path in (tmp_path / "val" / "ant").iterdir():
        path.unlink()
    (tmp_path / "val" / "ant").rmdir()
    source, _ = open_evaluation(DataSettings(data=data))
    assert source.classes == ("ant", "bee", "cat") and source.label(0) == 1


@pytest.mark.parametrize("data", ["scenes", "scenes-control"])
def test_scenes_are_generated_by_seed_and_not_cropped_of_their_own_accord(data: str) -> None:
    settings = DataSettings(data=data, limit_train=13, limit_val=7)
    first, again, other = (open_data(settings, seed=seed) for seed in (1, 1, 2))
    assert (len(first.train), len(first.val), first.generated) == (13, 7, True)
    assert first.preprocessing == Preprocessing(64)
    assert np.array_equal(np.asarray(first.train.read(3)), np.asarray(again.train.read(3)))
    assert not np.array_equal(np.asarray(first.train.read(3)), np.asarray(other.train.read(3)))
    assert not np.array_equal(np.asarray(first.train.read(3)), np.asarray(first.val.read(3)))
    assert isinstance(first.train, ImageSource)
    assert first.train_transform(AugmentSettings()).crop == "none"
    assert first.train_transform(AugmentSettings(random_crop="pad")).crop == "pad"
    source, _ = open_evaluation(settings, seed=1, classes=first.classes)
    assert np.array_equal(np.asarray(source.read(3)), np.asarray(first.val.read(3)))
    with pytest.raises(UserError, match="expected the classes a, b in this order"):
        open_evaluation(settings, classes=("a", "b"))


def test_the_setting_with_a_constant_reference_differs_from_the_other() -> None:
    context, control = (open_data(DataSettings(data=data, limit_train=5)) for data in ("scenes", "scenes-control"))
    assert any(
        not np.array_equal(np.asarray(context.train.read(i)), np.asarray(control.train.read(i))) for i in range(5)
    )


def test_real_cifar_images_pass_unchanged_and_come_once_each(data_root: Path) -> None:
    splits = open_data(DataSettings(data=str(data_root / "cifar10")))
    assert (len(splits.train), len(splits.val), splits.preprocessing) == (6000, 2000, Preprocessing(32))
    assert splits.classes[:3] == ("airplane", "automobile", "bird")
    loader = build_loader(
        ClassificationDataset(splits.val, splits.eval_transform()), EvaluationSampler(2000, batch_size=256)
    )
    batches = list(loader)
    names = [name for batch in batches for name in batch.names]
    assert len(set(names)) == 2000 and not any(batch.skipped for batch in batches)
    assert torch.cat([batch.labels for batch in batches]).bincount().tolist() == [200] * 10
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.preprocessing.mean, splits.preprocessing.std))
    for index in (0, 255):
        with Image.open(data_root / "cifar10" / "val" / batches[3].names[index]) as image:
            expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        found = (batches[3].inputs()[index] * std + mean) * 255
        assert torch.equal(found.round().to(torch.uint8), expected)


def test_real_photographs_are_resized_for_a_smaller_network(data_root: Path) -> None:
    settings = DataSettings(data=str(data_root / "imagenette224"), image_size=128, limit_val=30)
    source, preprocessing = open_evaluation(settings)
    assert preprocessing == Preprocessing(128, 146) == choose_preprocessing(settings, source)
    assert [source.label(i) for i in range(30)] == [i // 3 for i in range(30)]
    assert isinstance(FolderImages(data_root / "imagenette224" / "val").read(0), Image.Image)
