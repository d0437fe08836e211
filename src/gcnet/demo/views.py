"""HTML and pictures of predictions and attention for the page; all texts are escaped."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from gcnet.demo.models import DemoModel, attention_values, point_in_image
from gcnet.errors import UserError, printable
from gcnet.tasks.detection.predictions import ImageDetections
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps, Point, scale_limit
from gcnet.visualization.attention_tiles import color_scale, draw_tile, mark_point
from gcnet.visualization.images import data_uri, fit_image
from gcnet.visualization.pages import templates

LISTED_OBJECTS = 20
"""Maximum number of objects in the table of a detector."""
_LARGEST_SIDE, _SMALLEST_SIDE = 1280, 448  # pixels


def heading(models: Sequence[DemoModel]) -> str:
    """Return the heading of the page for its `models`."""
    return _render("heading.html", models=models)


def model_heading(model: DemoModel) -> str:
    """Return the name of a `model`, and its network."""
    return _render("model.html", model=model)


def hint() -> str:
    """Return the text in place of a prediction while there is no image."""
    return _render("hint.html")


def error(problem: UserError) -> str:
    """Return a `problem` as a sentence on the page."""
    return _render("error.html", sentence=sentence(problem))


def sentence(problem: UserError) -> str:
    """Return a `problem` as a sentence for visitors, without marks of arguments and control characters."""
    return printable(str(problem)).replace("`", "")


def prediction(model: DemoModel, image: Any, content: Mapping[str, Any]) -> str:
    """Return classes with bars, or the image with its objects and a table of them.

    Args:
        model: that made the prediction.
        image: prediction of the image.
        content: the prediction as JSON values, offered as a download.
    """
    download = _download(content, f"{model.name}-prediction")
    if not isinstance(image, ImageDetections):
        return _render("classes.html", classes=content["classes"], download=download)
    source = data_uri(_fitted(image.plot()))
    return _render("objects.html", objects=content["objects"], listed=LISTED_OBJECTS, picture=source, download=download)


def attention(model: DemoModel, maps: ImageMaps, point: Point) -> str:
    """Return the attention of a query in every layer.

    Args:
        model: that was analyzed.
        maps: of the image.
        point: the query, in the part of the image that the network saw.
    """
    return _render(
        "attention.html",
        maps=maps,
        all_shared=all(layer.attention.is_shared for layer in maps.layers),
        tiles=[_tile(layer, maps, point) for layer in maps.layers],
        colors=", ".join(color_scale()),
        download=_download(attention_content(model, maps, point), f"{model.name}-attention"),
    )


def attention_content(model: DemoModel, maps: ImageMaps, point: Point) -> dict[str, Any]:
    """Return the attention of a query in every layer as JSON values.

    Args:
        model: that was analyzed.
        maps: of the image.
        point: the query, in the part of the image that the network saw.

    Returns:
        `model`; `region`, the part of the image that the network saw (left, top, right, bottom); `point`, the query in
        the whole image, both as fractions of its width and height; and `layers`, from
        `gcnet.demo.models.attention_values`.
    """
    return {
        "model": model.name,
        "region": list(maps.region),
        "point": list(point_in_image(maps, point)),
        "layers": attention_values(maps, point),
    }


def picture(maps: ImageMaps, point: Point) -> Image.Image:
    """Return the image as the network saw it, with the query marked.

    Args:
        maps: of the image.
        point: the query, as fractions of the picture.

    Returns:
        RGB picture of at most 1,280 pixels; small ones are enlarged.
    """
    return mark_point(_fitted(maps.image), point)


def _fitted(image: Image.Image) -> Image.Image:
    return fit_image(image, min(_LARGEST_SIDE, max(_SMALLEST_SIDE, *image.size)))


def _tile(layer: LayerMaps, maps: ImageMaps, point: Point) -> dict[str, Any]:
    values = layer.map_of(point)
    limit = scale_limit(values)
    peak = float(values.max())
    return {
        "name": layer.name or layer.kind,
        "kind": layer.kind,
        "attention": layer.attention,
        "picture": _png_uri(draw_tile(values, maps.image, limit)),
        "end": _ratio(2**limit),
        "peak": _ratio(peak) if math.isfinite(peak) else "-",
    }


def _ratio(value: float) -> str:
    """Two digits, or all before the decimal point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _png_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _download(content: Mapping[str, Any], name: str) -> dict[str, str]:
    """File name and address of JSON values."""
    data = base64.b64encode(json.dumps(content).encode()).decode()
    return {"name": f"{name.replace('/', '-')}.json", "uri": f"data:application/json;base64,{data}"}


def _render(template: str, **values: Any) -> str:
    return templates("gcnet.demo").get_template(template).render(**values)
