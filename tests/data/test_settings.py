import json
import re
import subprocess
import sys

import pytest

from gcnet.data.settings import AugmentSettings, DataSettings, Preprocessing, PreprocessingSettings
from gcnet.errors import UserError

REFUSED = {
    "empty data": (lambda: DataSettings(data=""), "`data`"),
    "image size": (lambda: DataSettings(image_size=0), "`image_size` must be positive, found 0"),
    "huge image": (lambda: DataSettings(image_size=10_001), "`image_size` must be at most 10,000 pixels, found 10001"),
    "limit": (lambda: DataSettings(limit_train=-1), "`limit_train` must be positive, found -1"),
    "workers": (lambda: DataSettings(workers=-1), "`workers` must be 0 or more, found -1"),
    "thousands of workers": (lambda: DataSettings(workers=100_000), "`workers` must be at most 256, found 100000"),
    "interpolation": (lambda: DataSettings(interpolation="bicubik"), 'did you mean "bicubic"'),
    "resize": (lambda: DataSettings(image_size=64, resize=50), "at least the image size of 64, found 50"),
    "distance": (lambda: DataSettings(data="cifar10", scene_distance=9), "`scene_distance` requires `data` scenes"),
    "crop": (lambda: AugmentSettings(random_crop="padd"), 'did you mean "pad"'),
    "crop scale": (lambda: AugmentSettings(crop_scale=(0.9, 0.1)), "`crop_scale`"),
    "pad": (lambda: AugmentSettings(pad=-1), "`pad`"),
    "augment": (lambda: AugmentSettings(auto_augment="randaugmnt"), 'did you mean "randaugment"'),
    "magnitude": (lambda: AugmentSettings(ra_magnitude=31), "`ra_magnitude` must be 0 to 30, found 31"),
    "flip": (lambda: AugmentSettings(hflip=1.5), "`hflip` must be a probability from 0 to 1, found 1.5"),
    "color": (lambda: AugmentSettings(color_jitter=-0.1), "`color_jitter`"),
    "share of the crop": (
        lambda: PreprocessingSettings(crop_pct=1.5),
        r"`crop_pct` must be a fraction of the short side, from 0\.01 to 1; found 1\.5",
    ),
    "crop and resize": (lambda: DataSettings(crop_pct=0.5, resize=100), "`crop_pct` and `resize` both set"),
    "mean": (lambda: DataSettings(mean=(0.5, float("nan"), 0.5)), "`mean` must be three numbers, found 0.5 nan 0.5"),
    "crop mode": (lambda: PreprocessingSettings(crop_mode="squish"), 'did you mean "squash"'),
    "std": (lambda: Preprocessing(32, std=(1.0, 0.0, 1.0)), "std must be three positive numbers, found 1.0 0.0 1.0"),
    "preprocessing size": (lambda: Preprocessing(0), "image_size must be positive, found 0"),
    "huge short side": (lambda: Preprocessing(32, 10**30), "resize must be at most 10,000 pixels, found 1000"),
    "unknown entry": (lambda: Preprocessing.from_dict({"image_sise": 3}), 'did you mean "image_size"'),
    "missing entry": (lambda: Preprocessing.from_dict({"resize": 3}), "the entry image_size is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("unchecked_shapes")
def test_contradictory_settings_are_errors_of_one_sentence(case: str) -> None:
    build, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        build()


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing(127, 131, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert Preprocessing.from_dict({"image_size": 5}) == Preprocessing(5)


def test_settings_and_source_import_neither_torch_nor_numpy_alone() -> None:
    program = "import sys, gcnet.data.settings; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    program = (
        "import sys, gcnet.data.images.open; print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_fraction": 0.0}, "`val_fraction` must be a fraction between 0 and 1, such as 0.2; found 0.0"),
        ({"val_fraction": 1.0}, "`val_fraction` must be a fraction between 0 and 1, such as 0.2; found 1.0"),
        ({"val_fraction": 0.2, "val": "val"}, "give one of them"),
        ({"data": "scenes", "val": "val"}, "`data=scenes` has its own splits"),
        ({"data": "cifar10", "val_fraction": 0.1}, "`val_fraction` requires your own data"),
        ({"val": "s3://KEY:SECRET@bucket/val"}, "`val` must not contain a password or secret key, as in KEY:SECRET@"),
    ],
)
def test_contradictory_or_secret_data_are_refused(values: dict[str, object], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        DataSettings(**({"data": "photos"} | values))


@pytest.mark.usefixtures("unchecked_shapes")
def test_an_invalid_stored_preprocessing_is_an_error_of_one_sentence() -> None:
    sound = Preprocessing(32).to_dict()
    odd = [None, -1, 0, True, "x", [], [1, 2], [None] * 3, ["a"] * 3, {}, 1e300]
    for name in sound:
        for value in odd:
            try:
                Preprocessing.from_dict({**sound, name: value})
            except UserError:
                continue
            assert (name, value) == ("resize", None)


def test_the_name_of_built_in_data_is_not_the_folder_of_this_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert DataSettings(data="scenes").built_in_notes() == ()
    (tmp_path / "scenes").mkdir()
    (tmp_path / "photos").mkdir()
    (note,) = DataSettings(data="scenes").built_in_notes()
    assert note == "`data=scenes` is the built-in data set; `data=./scenes` is the folder of this name"
    for folder in ("./scenes", "scenes/", "photos"):
        settings = DataSettings(data=folder)
        assert not settings.is_built_in and not settings.is_generated and settings.built_in_notes() == ()
