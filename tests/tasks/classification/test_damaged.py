"""Five hundred damaged image files: nothing crashes, each left-out file is named once, and the counts are right."""

import io
import json
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from gcnet.cli import evaluate, predict
from tasks.fruit import CLASSES, random_pixels

FORMATS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "GIF": "gif", "WEBP": "webp", "TIFF": "tif", "PPM": "ppm"}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
FILES = 500


def encoded(number: int, format_name: str, mode: str = "RGB") -> bytes:
    image = Image.fromarray(random_pixels(number, side=23))
    image = image.convert("L").convert("I").point(lambda value: value * 257) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, format_name)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header promises `side` x `side` pixels, and little else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def damaged_files(generator: random.Random) -> Iterator[tuple[str, bytes, bool | None]]:
    """Suffix, content, and whether it is an image for sure (True), for sure none (False), or not known (None)."""
    number = 0
    while True:
        number += 1
        name, suffix = generator.choice(list(FORMATS.items()))
        content = bytearray(encoded(number, name))
        kind = number % 7
        if kind == 0:
            yield generator.choice(list(FORMATS.values())), b"", False
        elif kind == 1:
            yield suffix, generator.randbytes(generator.randint(1, 3000)), False
        elif kind == 2:
            yield suffix, bytes(content[: generator.randint(1, len(content) - 1)]), None
        elif kind == 3:
            mode = generator.choice(MODES)
            yield (
                ("jpg", encoded(number, "JPEG", mode), True)
                if mode == "CMYK"
                else ("png", encoded(number, "PNG", mode), True)
            )
        elif kind == 4:
            yield "png", bomb(generator.choice((14_000, 60_000, 2_000_000_000))), False
        else:
            for _ in range(generator.choice((1, 3, 20, 200))):
                content[generator.randrange(len(content))] = generator.randrange(256)
            yield suffix, bytes(content), None


def pillow_reads(path: Path) -> bool:
    """Whether Pillow alone gets pixels out of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                if image.width * image.height > 100e6:
                    return False
                image.convert("RGB")
        except Exception:
            return False
    return True


@pytest.mark.slow
def test_five_hundred_damaged_files_do_not_crash_and_every_one_is_accounted_for(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = tmp_path / "data" / "val"
    for name in CLASSES:
        (val / name).mkdir(parents=True)
    surely: dict[str, bool | None] = {}
    source = damaged_files(random.Random(7))
    for number in range(FILES - 1):
        suffix, content, whole = next(source)
        name = f"{CLASSES[number % 3]}/{number:03}.{suffix}"
        (val / name).write_bytes(content)
        surely[name] = whole
    (val / "apple" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    surely["apple/dangling.png"] = False

    out = tmp_path / "out"
    assert evaluate.run(evaluate.Settings(str(model_file), data=str(val.parent), device="cpu", output=out)) == 0
    messages = capsys.readouterr().err
    result = json.loads((out / "results.json").read_text())
    skipped_files = [skipped["name"] for skipped in result["skipped"]]
    assert len(skipped_files) == len(set(skipped_files)) == result["images_skipped"]
    assert result["images"] + result["images_skipped"] == FILES == len(surely)
    assert sum(map(sum, result["confusion"])) == result["images"]
    for number, name in enumerate(CLASSES):
        whole = [file for file in surely if file.startswith(name) and file not in skipped_files]
        assert sum(result["confusion"][number]) == len(whole), "no image stands in for another"
    for file, whole in surely.items():
        assert messages.count(f"skipped {file}: ") == (file in skipped_files)
        assert whole is None or whole == (file not in skipped_files), file
        assert pillow_reads(val / file) or file in skipped_files, file
    readable = sum(pillow_reads(val / file) for file in surely)
    assert result["images"] >= 0.95 * readable, "what Pillow reads is used, but for pixels without an agreed range"

    answer = tmp_path / "answer.json"
    sheet = tmp_path / "sheet.png"
    settings = predict.Settings((val,), str(model_file), json=str(answer), output=sheet, device="cpu")
    assert predict.run(settings) == 0
    messages = capsys.readouterr().err
    content = json.loads(answer.read_text())
    assert sorted(skipped["name"] for skipped in content["skipped"]) == sorted(
        str(val / file) for file in skipped_files
    )
    assert len(content["images"]) == result["images"]
    assert {image["path"] for image in content["images"]} == {
        str(val / file) for file in surely if file not in skipped_files
    }
    for file in skipped_files:
        assert messages.count(f"skipped {val / file}: ") == 1
    assert f"{result['images']} of {FILES} images processed, {result['images_skipped']} skipped" in messages
    assert sheet.exists()
