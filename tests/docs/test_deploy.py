"""The script of docs/deploy.md gives the classes of `gcnet predict`, in an environment without torch."""

import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import gcnet

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS / "onnx_classify.py"
ORIENTATION = 0x0112

pytestmark = pytest.mark.slow


def test_the_page_shows_the_script_of_at_most_40_lines() -> None:
    assert SCRIPT.read_text() in (DOCS / "deploy.md").read_text()
    assert len(SCRIPT.read_text().splitlines()) <= 40


def test_the_environment_has_no_torch(python_without_torch: Path) -> None:
    assert subprocess.run([python_without_torch, "-c", "import torch"], capture_output=True).returncode == 1


def drawn(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture without any symmetry."""
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(image).polygon([(3, 5), (size[0] // 2, 9), (7, size[1] - 4)], fill=(200, 40, 90))
    return image.convert(mode)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of several shapes and modes, one to be rotated by its EXIF tag."""
    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    drawn((211, 97)).save(folder / "turned.jpg", exif=exif, quality=95)
    transparent = drawn((90, 131), "RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    transparent.save(folder / "transparent.png")
    drawn((64, 64), "L").save(folder / "gray.png")
    drawn((301, 50)).quantize(16).save(folder / "palette.gif")
    return sorted(folder.iterdir())


def outputs_of(python: Path, model: Path, images: list[Path]) -> list[list[tuple[str, float]]]:
    done = subprocess.run([python, "-W", "error", SCRIPT, model, *images], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.rpartition(": ")[2].split(", ") for line in done.stdout.splitlines()]
    return [[(cell.rpartition(" ")[0], float(cell.rpartition(" ")[2])) for cell in row] for row in rows]


def assert_equal_to_predictor(python: Path, model: Path, images: list[Path], folder: Path) -> None:
    file = folder / "model.onnx"
    gcnet.export(str(model), output=file)
    predictions = gcnet.load(str(model), device="cpu")(images).images
    for ours, prediction in zip(outputs_of(python, file, images), predictions, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in prediction.classes]
        assert [score for _, score in ours] == pytest.approx([score for _, score in prediction.classes], abs=1e-4)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"image_size": 64},
        {"image_size": 96, "resize": 110, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
        {"image_size": 64, "resize": 71, "crop_mode": "squash", "interpolation": "nearest"},
    ],
    ids=["resized", "cropped", "squashed"],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_the_script_reads_images_as_gcnet_predict_does(
    preprocessing: dict[str, object], python_without_torch: Path, pictures: list[Path], tmp_path: Path
) -> None:
    model = gcnet.create_model("gc_resnet18", num_classes=7)
    with torch.no_grad():
        model.get_parameter("fc.weight").mul_(20)  # probabilities far from equal
    names = [f"class {letter}" for letter in "ABCDEFG"]
    gcnet.save_model(model, tmp_path / "m.safetensors", preprocessing=preprocessing, class_names=names)
    assert_equal_to_predictor(python_without_torch, tmp_path / "m.safetensors", pictures, tmp_path)


@pytest.mark.usefixtures("unchecked_shapes")
def test_the_script_gives_the_classes_of_trained_weights(
    python_without_torch: Path, data_root: Path, tmp_path: Path
) -> None:
    weights = data_root / "weights-resnet-cifar10" / "resnet20-12fca82f.th"
    model = gcnet.create_model("cifar_resnet20", num_classes=10, weights=str(weights))
    folders = sorted((data_root / "cifar10" / "val").iterdir())
    names = [folder.name for folder in folders]
    gcnet.save_model(model, tmp_path / "m.safetensors", preprocessing={"image_size": 32}, class_names=names)
    images = [sorted(folder.iterdir())[index] for folder in folders for index in (3, 77)]
    assert_equal_to_predictor(python_without_torch, tmp_path / "m.safetensors", images, tmp_path)
