"""Settings of `gcnet export`: file names, and choices that do not fit each other."""

from pathlib import Path

import pytest

from gcnet.errors import UserError
from gcnet.exporters.settings import ExportSettings


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ({"model": "runs/first"}, ["first.onnx"]),
        ({"model": "runs/first/"}, ["first.onnx"]),
        ({"model": "models/net.v2.safetensors", "format": "torch-export"}, ["net.v2.pt2"]),
        ({"model": "hf://user/name", "format": "openvino"}, ["name.xml", "name.bin"]),
        ({"model": "m", "output": Path("out/a.pt2")}, ["out/a.pt2"]),
        ({"model": "m", "output": Path("out/a.xml")}, ["out/a.xml", "out/a.bin"]),
    ],
)
def test_files_are_named_after_the_output_or_the_model(arguments: dict[str, object], files: list[str]) -> None:
    assert [str(file) for file in ExportSettings(**arguments).files] == files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"output": Path("a.tflite")},
            "`output` must end in .onnx (format onnx) or .pt2 (format torch-export) or .xml (format openvino), found",
        ),
        (
            {"output": Path("a.onnx"), "format": "openvino"},
            "`output` must end in .xml (format openvino), found a.onnx",
        ),
        ({"dynamic": "bach"}, 'unknown axis of `dynamic` "bach"; did you mean "batch"?'),
        ({"dynamic": "none,size"}, "`dynamic=none` excludes other axes, found none,size"),
        ({"image_size": (0,)}, "`image_size` must be one or two sides of 1 to 10,000 pixels, found 0"),
        ({"image_size": (32, 32, 3)}, "`image_size` must be one or two sides of 1 to 10,000 pixels, found 32 32 3"),
        ({"precision": "int8"}, "`precision=int8` requires `calibrate`, a folder of images like those of its use"),
        (
            {"precision": "int8", "format": "openvino"},
            "`precision=int8` requires `format=onnx`, found `format=openvino`",
        ),
        (
            {"precision": "int8", "calibrate": Path("none")},
            "`calibrate` takes a folder of images, but there is none at",
        ),
        ({"calibrate": Path()}, "`calibrate` requires `precision=int8`, found `precision=float32`"),
        ({"tolerance": 0.0}, "`tolerance` must be above 0, found 0"),
    ],
)
def test_choices_that_do_not_fit_are_one_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        ExportSettings("model", **arguments)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("existing", ["net.xml", "net.bin"])
def test_existing_files_are_kept_without_overwrite(
    existing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / existing).touch()
    with pytest.raises(UserError, match=f"`output`: {existing} exists already; `overwrite` replaces it"):
        ExportSettings("net", format="openvino")
    assert ExportSettings("net", format="openvino", overwrite=True).file == Path("net.xml")


@pytest.mark.parametrize("source", [{"model": "net.bin"}, {"model": "resnet18", "weights": "link.bin"}])
def test_the_exported_weights_are_never_overwritten(
    source: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.bin").touch()
    (tmp_path / "link.bin").symlink_to("net.bin")
    with pytest.raises(UserError, match=r"`output` must not replace the weights, found net\.bin for both"):
        ExportSettings(**source, output=Path("net.xml"), overwrite=True)


@pytest.mark.parametrize(
    ("dynamic", "axes"), [(None, ("batch",)), ("size, batch", ("batch", "size")), ("size", ("size",)), ("none", ())]
)
def test_dynamic_axes_have_a_default(dynamic: str | None, axes: tuple[str, ...]) -> None:
    assert ExportSettings("model", dynamic=dynamic).dynamic_axes("batch") == axes
