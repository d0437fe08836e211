import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcnet.data.decode import IMAGE_SUFFIXES, EncodedImage, ImageError, has_image_suffix, open_image, read_header
from open_files import open_files


def photo(width: int = 23, height: int = 17) -> Image.Image:
    """Smooth colors with noise: JPEG keeps them nearly, PNG exactly."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(5).integers(0, 30, (height, width))
    channels = [x * 220 // width, y * 220 // height, (x + y) * 110 // (width + height)]
    return Image.fromarray(np.stack([channel + noise for channel in channels], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """A valid PNG of 14,000 x 14,000 black pixels in about 200 KB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 14_000
    rows = zlib.compress(bytes(side + 1) * side, 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


REFUSED = {
    "truncated_png": (lambda: encoded(photo(), "PNG")[:-200], "truncated"),
    "truncated_jpeg": (lambda: encoded(photo(211, 97), "JPEG")[:1500], "truncated"),
    "header_only": (lambda: encoded(photo(), "PNG")[:20], ""),
    "empty": (lambda: b"", "empty file"),
    "text_renamed": (lambda: b"no image at all\n" * 9, "not an image"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    "zero_bytes": (lambda: bytes(777), "not an image"),
    "float_tiff": (lambda: encoded(Image.fromarray(np.ones((5, 7), np.float32)), "TIFF"), "no defined range"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_undecodable_file_is_an_error_with_its_path_and_a_short_reason(case: str, tmp_path: Path) -> None:
    content, reason = REFUSED[case]
    path = saved(tmp_path, f"{case}.png", content())
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert len(caught.value.reason) < 130 and "\n" not in caught.value.reason


def test_a_missing_file_a_folder_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe.png", "reg"),
    ):
        with pytest.raises(ImageError, match=reason):
            open_image(path)
    with pytest.raises(ImageError, match="null"):
        open_image("a\0b.png")


def test_a_header_over_the_limit_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path, "huge.png", huge_png())
    assert path.stat().st_size < 600_000
    program = (
        "import sys\n"
        "from gcnet.data.decode import ImageError, open_image\n"
        "def highest():  # in MB; `ru_maxrss` begins with that of the process that started this one\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line.split()[1] for line in lines if line.startswith('VmHWM:'))) // 1024\n"
        "before = highest()\n"
        "try:\n    open_image(sys.argv[1])\nexcept ImageError as error:\n    print(error.reason)\n"
        "print(highest() - before)\n"
    )
    out = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    reason, megabytes = out.stdout.splitlines()
    assert "100 megapixels" in reason
    assert int(megabytes) < 20  # decoded it would be 196 MB


def test_the_limit_counts_the_pixels_of_the_header(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", encoded(photo(50, 40), "PNG"))
    assert open_image(path, max_megapixels=0.002).size == (50, 40)
    with pytest.raises(ImageError, match="50x40 pixels, over the limit of 0.0019 megapixels"):
        open_image(path, max_megapixels=0.0019)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_rgb_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(saved(tmp_path, "a.img", encoded(photo(), kind, **options)))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(photo()))


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = photo().convert("L")
    image = np.asarray(open_image(saved(tmp_path, "a.png", encoded(gray, "PNG"))))
    for channel in range(3):
        assert np.array_equal(image[..., channel], np.asarray(gray))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_keeps_its_upper_8_bits(kind: str, tmp_path: Path) -> None:
    values = (np.arange(13 * 7, dtype=np.uint16) * 719).reshape(13, 7)
    image = np.asarray(open_image(saved(tmp_path, "a.png", encoded(Image.fromarray(values), kind))))
    assert np.array_equal(image[..., 0], values // 256)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_cmyk_keeps_its_colors(tmp_path: Path) -> None:
    for kind in ("JPEG", "TIFF"):
        image = open_image(saved(tmp_path, "a", encoded(Image.new("CMYK", (9, 7), (0, 255, 255, 0)), kind)))
        red, green, blue = np.asarray(image)[3, 3]
        assert (red, image.mode) == (255, "RGB") and max(green, blue) < 8


def test_transparent_pixels_become_white_and_opaque_pixels_keep_their_color(tmp_path: Path) -> None:
    solid = np.dstack([np.asarray(photo()), np.full((17, 23), 255, np.uint8)])
    half_clear = solid.copy()
    half_clear[:, :11, 3] = 0
    image = np.asarray(open_image(saved(tmp_path, "a.png", encoded(Image.fromarray(half_clear), "PNG"))))
    assert (image[:, :11] == 255).all()
    assert np.array_equal(image[:, 11:], solid[:, 11:, :3])
    image = np.asarray(open_image(saved(tmp_path, "b.png", encoded(Image.fromarray(solid), "PNG"))))
    assert np.array_equal(image, solid[..., :3])


def test_a_palette_with_a_transparent_entry_shows_white_there(tmp_path: Path) -> None:
    image = Image.new("P", (6, 4))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((2, 1), 1)
    path = saved(tmp_path, "a.png", encoded(image, "PNG", transparency=0))
    pixels = np.asarray(open_image(path))
    assert pixels[1, 2].tolist() == [200, 100, 50]
    assert pixels[0, 0].tolist() == [255, 255, 255]
    pixels = np.asarray(open_image(saved(tmp_path, "b.png", encoded(image, "PNG"))))
    assert pixels[0, 0].tolist() == [10, 20, 30]


def test_gray_with_a_transparent_value_and_gray_with_alpha_show_white(tmp_path: Path) -> None:
    gray = Image.new("L", (3, 2), 40)
    gray.putpixel((1, 1), 90)
    pixels = np.asarray(open_image(saved(tmp_path, "a.png", encoded(gray, "PNG", transparency=40))))
    assert (pixels[0, 0].tolist(), pixels[1, 1].tolist()) == ([255] * 3, [90] * 3)
    pixels = np.asarray(open_image(saved(tmp_path, "b.png", encoded(Image.new("LA", (3, 2), (40, 0)), "PNG"))))
    assert (pixels == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_rotated_by_its_exif_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (32, 16), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 8))  # red in the upper left quarter
    turns = {  # what a camera held that way stores, from EXIF 2.32, 4.6.4.A
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(saved(tmp_path, "a.img", encoded(stored, kind, exif=exif)))
    assert image.size == (32, 16)
    pixels = np.asarray(image).astype(int)
    assert pixels[3, 4, 0] > 200 > 60 > pixels[12, 4, 0]
    assert pixels[3, 28, 2] > 200


def test_an_unreadable_orientation_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", encoded(photo(), "PNG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12"))
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(photo()))


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (11, 5), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(saved(tmp_path, "a.gif", content)))[2, 2].tolist() == [200, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 301), (301, 1), (2, 1)])
def test_lines_and_single_pixels_are_images(size: tuple[int, int], tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF"):
        assert open_image(saved(tmp_path, "a", encoded(photo(*size), kind))).size == size


def test_mutated_files_give_an_image_or_an_image_error_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    originals = [
        encoded(photo(), "PNG"),
        encoded(photo().convert("P"), "PNG", transparency=3),
        encoded(photo().convert("RGBA"), "PNG", exif=exif),
        encoded(photo(61, 43), "JPEG", exif=exif),
        encoded(photo().convert("CMYK"), "JPEG"),
        encoded(photo(), "GIF"),
        encoded(photo(), "BMP"),
        encoded(photo(), "WEBP"),
        encoded(photo(), "PPM"),
    ]
    outcomes = {"image": 0, "refused": 0}
    for number in range(900):
        content = bytearray(originals[number % len(originals)])
        for _ in range(rng.choice((1, 3, 11))):
            content[rng.randrange(len(content) if rng.random() < 0.5 else 40)] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(1, len(content)) :]
        path = saved(tmp_path, f"{number}.png", bytes(content))
        try:
            assert open_image(path, max_megapixels=4).mode == "RGB"
            outcomes["image"] += 1
        except ImageError as error:
            assert error.path == str(path) and error.reason
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 150


def test_an_image_error_survives_pickling_so_that_workers_can_send_it() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a/b.png", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a/b.png", "truncated", "a/b.png: truncated")


def test_image_files_have_an_image_suffix_and_are_not_hidden() -> None:
    assert [name for name in ("a.JPG", "b.png", "._b.png", "c.txt", "png", "d.tiff") if has_image_suffix(name)] == [
        "a.JPG",
        "b.png",
        "d.tiff",
    ]


CONTENT = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "a Git LFS pointer, .*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
    "zip": (b"PK\x03\x04abc", "a ZIP archive"),
    "zeros": (bytes(700), "only zero bytes"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_files_of_other_types_are_named_by_their_content(case: str, tmp_path: Path) -> None:
    content, reason = CONTENT[case]
    with pytest.raises(ImageError, match=reason):
        open_image(saved(tmp_path, "a.jpg", content))


def test_a_broken_link_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="a symbolic link to a missing file"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize(("kind", "suffix"), [("AVIF", ".avif"), ("JPEG2000", ".jp2")])
def test_formats_that_pillow_may_lack_are_read_where_it_has_them(kind: str, suffix: str, tmp_path: Path) -> None:
    if suffix not in IMAGE_SUFFIXES:
        pytest.skip(f"this Pillow does not read {kind}")
    path = tmp_path / f"a{suffix}"
    photo().save(path, kind)
    assert open_image(path).size == photo().size


def test_16_bit_images_with_fewer_bits_in_use_keep_the_upper_8_of_these(tmp_path: Path) -> None:
    values = np.array([[0, 15, 16, 4095, 4096, 65535]], dtype=np.uint16)
    path = saved(tmp_path, "a.png", encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(open_image(path, bit_depth=12))[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255]
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [0, 0, 0, 15, 16, 255]


def test_an_image_in_memory_is_read_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    photo().save(path)
    in_memory = EncodedImage("shard/image.png", path.read_bytes())
    assert open_image(in_memory).tobytes() == open_image(path).tobytes()
    assert read_header(in_memory) == read_header(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"%PDF-1.7", "a PDF, not an image: convert its pages to PNG"),
        (b"\xff\xd8\xff", "not an image of a known format"),
    ],
)
def test_an_unreadable_image_in_memory_has_a_name_and_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(EncodedImage("shard/image.jpg", data))
    assert str(caught.value) == f"shard/image.jpg: {reason}"


def test_warnings_of_pillow_are_not_shown_and_other_filters_stay(tmp_path: Path) -> None:
    path = saved(tmp_path, "photo.png", encoded(photo(), "PNG"))
    program = (
        "import sys, warnings\n"
        "from PIL import Image\n"
        "from gcnet.data.decode import open_image\n"
        "Image.MAX_IMAGE_PIXELS = 23 * 17 - 1  # Pillow warns above it, and refuses twice as much\n"
        "before = list(warnings.filters)\n"
        "open_image(sys.argv[1])\n"
        "assert warnings.filters == before and any(entry[0] == 'error' for entry in before)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_decoded_image_needs_its_file_no_more(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, "photo", encoded(photo(), kind))
    with Image.open(path) as stored:
        expected = stored.convert("RGB").tobytes()
    image = open_image(path)
    assert not open_files(tmp_path)
    path.unlink()
    assert image.tobytes() == expected == image.copy().tobytes()
    assert pickle.loads(pickle.dumps(image)).tobytes() == expected
    assert image.resize((5, 5)).size == (5, 5)
