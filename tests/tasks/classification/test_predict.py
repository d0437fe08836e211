"""`gcnet predict`, judged by running the network by hand on the same pixels."""

import csv
import json
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import gcnet
from gcnet.cli import predict as command
from gcnet.cli.log_output import printed_messages
from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.listing import find_images
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.tasks.settings import PredictSettings
from tasks.fruit import CLASSES, random_pixels, write_fruit

run = printed_messages()(command.run)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def probabilities_by_hand(model_file: Path, number: int) -> dict[str, float]:
    pixels = (torch.from_numpy(random_pixels(number)) / 255 - MEAN) / STD
    with torch.no_grad():
        scores = load_model(model_file)(pixels.permute(2, 0, 1)[None])[0]
    return dict(zip(CLASSES, scores.softmax(0).tolist(), strict=True))


def test_json_holds_the_probabilities_that_the_network_gives(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    answer = tmp_path / "answer.json"
    code = run(PredictSettings((tmp_path / "images",), str(model_file), json=str(answer), batch_size=4, device="cpu"))
    assert code == 0
    content = json.loads(answer.read_text())
    assert len(content["images"]) == 15
    assert content["images_skipped"] == 0
    for number in (0, 4, 14):
        found = {one["class"]: one["probability"] for one in content["images"][number]["classes"]}
        assert found == pytest.approx(probabilities_by_hand(model_file, number), abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_images_are_opened_ahead_in_threads_and_stay_in_order(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fruit(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = find_images([tmp_path])
    opened: list[str] = []
    original = ImageInput.open

    def recorded(item: ImageInput, **options: int) -> Image.Image:
        opened.append(threading.current_thread().name)
        return original(item, **options)

    monkeypatch.setattr(ImageInput, "open", recorded)
    predictor = gcnet.load(str(model_file), device="cpu")
    result = predictor(paths, batch_size=4)
    assert [image.path for image in result.images] == [path for path in paths if path.name != "broken.png"]
    assert len(result.skipped) == 1 and len(opened) == len(paths) == 16
    assert threading.main_thread().name not in opened


def test_only_json_is_on_standard_output(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fruit(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert run(PredictSettings((tmp_path,), str(model_file), json="-", topk=2, device="cpu")) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert len(content["images"]) == 15
    assert all(len(image["classes"]) == 2 for image in content["images"])
    assert content["skipped"] == [
        {"name": str(tmp_path / "broken.png"), "reason": "not an image of a known format"},
    ]
    assert "15 of 16 images processed, 1 skipped" in printed.err


def test_the_table_has_a_line_for_each_image_with_its_best_class(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path, _ in write_fruit(tmp_path)]
    assert run(PredictSettings(tuple(files[:3]), str(model_file), device="cpu")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines[1:]):
        by_hand = probabilities_by_hand(model_file, number)
        best = max(by_hand, key=lambda name: by_hand[name])
        assert line.split()[:2] == [str(files[number]), best]


def test_the_contact_sheet_is_an_image(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    sheet = tmp_path / "new" / "sheet.png"
    assert run(PredictSettings((tmp_path / "images",), str(model_file), output=sheet, device="cpu")) == 0
    with Image.open(sheet) as image:
        assert image.width > 800
        assert image.height > 400


def test_names_with_line_breaks_and_bytes_that_are_no_text_are_shown_escaped(
    model_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (b"two\nlines.png", b"caf\xe9.png"):
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:
            Image.fromarray(random_pixels(1)).save(file, "PNG")
    answer = tmp_path / "answer.json"
    sheet = tmp_path / "sheet" / "all.png"
    settings = PredictSettings((tmp_path,), str(model_file), json=str(answer), output=sheet, device="cpu")
    assert run(settings) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3
    assert {Path(image["path"]).name for image in json.loads(answer.read_text())["images"]} == {
        "two\nlines.png",
        "caf\udce9.png",
    }


def test_no_image_that_works_is_exit_code_one_and_still_names_the_files(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jpg").touch()
    assert (
        run(PredictSettings((tmp_path / "empty.jpg",), str(model_file), output=tmp_path / "a.png", device="cpu")) == 1
    )
    assert f"skipped {tmp_path / 'empty.jpg'}: empty file" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_an_image_named_twice_counts_once(tmp_path: Path) -> None:
    files = [path for path, _ in write_fruit(tmp_path)]
    (tmp_path / "notes.txt").write_text("not searched for")
    (tmp_path / "link").symlink_to(tmp_path / "apple")
    found = find_images([files[3], tmp_path, tmp_path / "apple" / ".." / "apple", files[3]])
    assert found[0] == files[3]
    assert sorted(path.resolve() for path in found) == sorted(files)


def test_files_of_other_formats_in_folders_are_counted_by_suffix(tmp_path: Path) -> None:
    write_fruit(tmp_path)
    for name in ("a.heic", "b.heic", "c"):
        (tmp_path / "apple" / name).write_bytes(b"x")
    notes: list[str] = []
    find_images([tmp_path], note=notes.append)
    assert notes == ["skipped 3 files of unsupported formats (2 .heic, 1 without a suffix)"]
    with pytest.raises(UserError, match="URLs are not supported, found https://a.b/c.jpg"):
        find_images(["https://a.b/c.jpg"])


def test_paths_that_lead_nowhere_get_a_sentence(tmp_path: Path) -> None:
    write_fruit(tmp_path)
    with pytest.raises(UserError, match=r'no file or folder .*aple; did you mean ".*apple"\?'):
        find_images([tmp_path / "aple"])
    with pytest.raises(UserError, match=r"no file or folder .*nowhere/a\.png"):
        find_images([tmp_path / "nowhere" / "a.png"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no image files in .*none; their names must end in one of .*\.png"):
        find_images([tmp_path / "none"])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"paths": ()}, "at least one image or folder"),
        ({"topk": 0}, "`topk` must be at least 1, found 0"),
        ({"batch_size": -1}, "`batch_size` must be at least 1, found -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        PredictSettings(**({"paths": (Path("a.png"),), "model": "resnet18"} | changed))


@pytest.mark.parametrize(
    ("model", "weights", "sentence"),
    [
        ("cifar_resnet20", None, "requires trained weights: add `weights=FILE`"),
        ("cifar_resnt20", None, 'unknown model "cifar_resnt20"; did you mean "cifar_resnet20"'),
        ("nowhere.safetensors", None, r"nowhere\.safetensors"),
        ("cifar_resnet20", "nowhere.pth", r"nowhere\.pth"),
    ],
)
def test_networks_that_cannot_be_opened_get_a_sentence(
    model: str, weights: str | None, sentence: str, tmp_path: Path
) -> None:
    write_fruit(tmp_path)
    with pytest.raises(UserError, match=sentence):
        run(PredictSettings((tmp_path,), model, weights, device="cpu"))


def test_a_folder_in_place_of_a_model_file_names_the_files_inside(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path)
    with pytest.raises(
        UserError, match=r"is a folder without weights/best\.safetensors; it holds .*fruit\.safetensors"
    ):
        run(PredictSettings((tmp_path,), str(model_file.parent), device="cpu"))
    with pytest.raises(UserError, match="`weights` requires a network name"):
        run(PredictSettings((tmp_path,), str(model_file), str(model_file), device="cpu"))


def test_weights_by_name_keep_their_own_number_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fruit(tmp_path / "images")
    torch.save(create_model("cifar_resnet20", num_classes=7).state_dict(), tmp_path / "seven.pth")
    settings = PredictSettings((tmp_path / "images",), "cifar_resnet20", str(tmp_path / "seven.pth"), device="cpu")
    assert run(settings) == 0
    assert "preprocessing: 32 x 32 pixels" in capsys.readouterr().err
    settings = PredictSettings(
        settings.paths,
        settings.model,
        settings.weights,
        topk=9,
        json="-",
        preprocessing=PreprocessingSettings(image_size=16),
        device="cpu",
    )
    assert run(settings) == 0
    classes = json.loads(capsys.readouterr().out)["images"][0]["classes"]
    assert sorted(one["class"] for one in classes) == [f"class {number}" for number in range(7)]
    assert sum(one["probability"] for one in classes) == pytest.approx(1, abs=1e-6)


def test_outputs_that_are_not_finite_are_refused_and_the_image_named(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    model = load_model(model_file)
    with torch.no_grad():
        list(model.parameters())[-1].fill_(float("nan"))
    save_model(model, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"outputs must be finite numbers; those for .*00\.png"):
        run(PredictSettings((tmp_path / "images",), str(tmp_path / "broken.safetensors"), device="cpu"))


def test_a_contact_sheet_is_a_png(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    with pytest.raises(UserError, match=r"takes a \.png file .*, found sheet\.jpg"):
        run(PredictSettings((tmp_path / "images",), str(model_file), output=Path("sheet.jpg"), device="cpu"))


def test_flags_of_detectors_are_refused_for_a_classifier(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    with pytest.raises(UserError, match=r"`threshold` is only for detectors, but .* is a classifier"):
        run(PredictSettings((tmp_path / "images",), str(model_file), threshold=0.3, device="cpu"))


def test_a_table_has_a_row_for_each_image_and_class(model_file: Path, tmp_path: Path) -> None:
    write_fruit(tmp_path / "images")
    file = tmp_path / "new" / "found.csv"
    assert run(PredictSettings((tmp_path / "images",), str(model_file), csv=file, topk=2, device="cpu")) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert (len(rows), list(rows[0])) == (30, ["image", "class", "probability"])
    found = {row["class"]: float(row["probability"]) for row in rows[:2]}
    assert found == {name: pytest.approx(probabilities_by_hand(model_file, 0)[name], abs=1e-5) for name in found}


@pytest.mark.parametrize("flag", ["json", "csv", "output"])
def test_files_are_replaced_with_overwrite_only(model_file: Path, tmp_path: Path, flag: str) -> None:
    write_fruit(tmp_path / "images")
    file = tmp_path / "taken.png"
    file.write_text("mine")
    output = {flag: str(file) if flag == "json" else file}
    with pytest.raises(UserError, match=f"`{flag}`: .*taken.png exists already; `overwrite` replaces it"):
        PredictSettings((tmp_path / "images",), str(model_file), **output)
    assert file.read_text() == "mine"
    assert run(PredictSettings((tmp_path / "images",), str(model_file), overwrite=True, device="cpu", **output)) == 0
    assert file.read_bytes() != b"mine"
