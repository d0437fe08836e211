"""What a classifier attends to in images: looked at one by one, drawn, and put on a page."""

import re
import sys
from typing import TYPE_CHECKING

from gcnet.cli.analyze import find_preprocessing, report_written
from gcnet.cli.predict import report_skipped
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from gcnet.cli.analyze import Settings
    from gcnet.evaluation.attention_maps import ImageMaps
    from gcnet.evaluation.network import Network

IMAGES = 12


def draw(network: "Network", settings: "Settings") -> int:
    """Draw the attention on each image, and write the page; 0 if at least one image worked, 1 if none did."""
    from gcnet.data.decode import ImageError
    from gcnet.data.loading import Skipped
    from gcnet.evaluation.attention_maps import choose_points, look_at
    from gcnet.evaluation.progress import progress_bar

    preprocessing = find_preprocessing(network, settings)
    if preprocessing is None:
        raise UserError(
            f"{settings.weights or settings.model} comes without preprocessing: give --image-size, the side of the "
            "images that it was trained on"
        )
    paths, skipped, looked = _chosen(settings), [], []
    with progress_bar("images", len(paths)) as progress:
        for path in paths:
            try:
                looked.append(look_at(network, path, preprocessing))
            except ImageError as error:
                skipped.append(Skipped(str(path), error.reason))
            progress(1)
    for maps in looked:
        choose_points(settings.points, maps.image)  # a point that cannot be is said before anything is written
    if looked:
        _write(looked, network, settings)
    report_skipped(skipped, len(looked), "analyzed")
    return 0 if looked else 1


def _chosen(settings: "Settings") -> "list[Path]":
    from gcnet.evaluation.predict import find_images

    paths = find_images(settings.images)
    count = min(settings.limit or IMAGES, len(paths))
    if count < len(paths):
        print(f"{count} of {len(paths)} images, evenly spread; --limit takes another number", file=sys.stderr)
    return [paths[number * len(paths) // count] for number in range(count)]


def _write(looked: "list[ImageMaps]", network: "Network", settings: "Settings") -> None:
    from gcnet.evaluation.attention_figures import plot_queries, plot_shared
    from gcnet.evaluation.attention_maps import choose_points
    from gcnet.evaluation.attention_page import render_page
    from gcnet.storage import write_atomic

    first = looked[0]
    if not first.layers and not first.gates:
        raise UserError(f"{settings.model} has neither attention over positions nor gates of channels to show")
    settings.output.mkdir(parents=True, exist_ok=True)
    written = []
    for number, maps in enumerate(looked):
        stem = f"{number + 1:02}-{re.sub(r'[^A-Za-z0-9.-]+', '_', maps.path.stem)[:60]}"
        points = choose_points(settings.points, maps.image)
        for name, count in (
            (f"{stem}-queries.png", plot_queries(maps, points, settings.output / f"{stem}-queries.png")),
            (f"{stem}-shared.png", plot_shared(maps, settings.output / f"{stem}-shared.png")),
        ):
            written += [name] if count else []
    written += _write_gates(looked, network, settings)
    if first.layers:
        page, shown = render_page(looked, title=f"What {settings.model} attends to")
        write_atomic(settings.output / "index.html", page.encode())
        written.insert(0, "index.html")
        if shown < len(looked):
            print(f"index.html has room for {shown} of {len(looked)} images", file=sys.stderr)
    _print_layers(looked)
    report_written(written, settings.output)


def _write_gates(looked: "list[ImageMaps]", network: "Network", settings: "Settings") -> list[str]:
    from gcnet.evaluation.attention_figures import plot_gates
    from gcnet.evaluation.gates import GateMeans

    means = GateMeans()
    for maps in looked:
        means.add(maps.gates, [maps.label])
    if not means.names:
        return []
    names = [f"taken for {network.names()[label]}" for label in means.labels]
    plot_gates(means.rows(), names, settings.output / "gates.png", images=len(looked))
    return ["gates.png"]


def _print_layers(looked: "list[ImageMaps]") -> None:
    """A line for each image, and for each layer what it is."""
    for maps in looked:
        print(f"{printable(maps.path)}: {maps.answer}")
    if not looked[0].layers:
        return
    width = max(len(layer.name) for layer in looked[0].layers)
    print(f"\n{'layer':<{width}}  {'positions':>9}  maps")
    for layer in looked[0].layers:
        height, across = layer.attention.grid
        heads = layer.attention.weights.shape[-2 if layer.attention.is_shared else -3]
        kinds = "one for all queries" if layer.attention.is_shared else "one for each query"
        windows = "" if layer.attention.windows is None else ", in windows"
        print(f"{layer.name:<{width}}  {f'{height} x {across}':>9}  {kinds}{windows}" + _heads(heads))


def _heads(heads: int) -> str:
    return f", mean of {heads} heads" if heads > 1 else ""
