"""CSVs and their images in a bucket, judged by the same files on this machine."""

from pathlib import Path

import pytest
from PIL import Image

from gcnet.data.decode import ImageError
from gcnet.data.images.labeled import open_labeled, open_splits
from gcnet.data.images.sources import ImageSource
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.remote_files import file_system

ROWS = """path,label,split
a.png,dog,train
./deep/b.png,cat,train
deep\\C.png,dog,val
/mnt/photos/d e.png,cat,val
gone.png,cat,train
"""


@pytest.fixture
def table(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A CSV and its images on this machine, and the same in a bucket."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "deep/b.png", "deep/c.png", "d e.png")):
        Image.new("RGB", (5, 4), (number, 20, 30)).save(folder / name)
    (folder / "list.csv").write_text(ROWS)
    for path in folder.rglob("*.*"):
        file_system(s3).pipe_file(f"{s3}/photos/{path.relative_to(folder)}", path.read_bytes())
    return folder, f"{s3}/photos"


def contents(source: ImageSource) -> list[object]:
    """Name, label, size and pixels of each image."""
    values: list[object] = []
    for index in range(len(source)):
        try:
            pixels: object = source.read(index).tobytes()
        except ImageError as error:
            pixels = error.reason
        values.append((source.name(index), source.label(index), source.file_size(index), pixels))
    return values


def test_images_labels_and_notes_are_those_of_the_folder(table: tuple[Path, str]) -> None:
    local, remote = (open_splits(f"{place}/list.csv") for place in table)
    for split in ("train", "val"):
        assert contents(remote[split]) == contents(local[split])
        assert remote[split].classes == local[split].classes
        notes = [note.replace(str(table[0]), table[1]) for note in local[split].notes]
        assert list(remote[split].notes) == notes
    assert "no such file" in str(contents(remote["train"]))


@pytest.mark.parametrize(("csv", "images"), [(0, 1), (1, 0)])
def test_csv_and_images_in_different_places(table: tuple[Path, str], csv: int, images: int) -> None:
    train, val = open_labeled(DataSettings(data=f"{table[csv]}/list.csv", images=str(table[images])), 0)
    assert contents(train)[:2] == contents(open_splits(f"{table[0]}/list.csv")["train"])[:2]
    assert len(val) == 2


def test_mistakes_name_the_url(table: tuple[Path, str]) -> None:
    url = table[1]
    file_system(url).pipe_file(f"{url}/other.csv", b"file,label\na.png,dog\n")
    file_system(url).pipe_file(f"{url}/gone.csv", b"path,label\nx.png,dog\n")
    for name, images, message in (
        ("other.csv", None, "s3://bucket/photos/other.csv: the first line must name the columns path, label"),
        (
            "gone.csv",
            None,
            "s3://bucket/photos/gone.csv: none of its 1 images is in the folder s3://bucket/photos",
        ),
        ("list.csv", "s3://bucket/none", "`images` takes a folder, but there is none at s3://bucket/none"),
        ("list.csv", "s3://none/x", "nothing at s3://none/x: The specified bucket does not exist"),
        ("lits.csv", None, 'there is no file s3://bucket/photos/lits.csv; did you mean "s3://bucket/photos/list.csv"'),
    ):
        with pytest.raises(UserError, match=message) as error:
            open_splits(f"{url}/{name}", images)
        assert "cache" not in str(error.value)
