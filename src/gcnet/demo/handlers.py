"""Handlers of the page and of the HTTP endpoints."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from gcnet.data.decode import ImageError
from gcnet.demo import views
from gcnet.demo.models import DemoModel, point_in_image, point_in_region
from gcnet.demo.uploads import Uploads
from gcnet.errors import UserError, printable, unknown
from gcnet.visualization.attention_maps import ImageMaps, Point

CENTER = (0.5, 0.5)
"""The query of a new image, as fractions of its width and height."""
Upload = dict[str, Any] | None
"""File data of Gradio: an uploaded image, with its `path`; None without an image."""


class Handlers:
    """Handlers of the page and of the HTTP endpoints; they take values as clients send them.

    Args:
        models: one or two models.
        uploads: uploaded images.
    """

    def __init__(self, models: Sequence[DemoModel], uploads: Uploads) -> None:
        self.models, self._uploads = list(models), uploads

    def show_prediction(self, index: int, upload: Upload, topk: Any, threshold: Any) -> str:
        """Return the prediction of a model as HTML, or a sentence on why there is none.

        Args:
            index: number of the model, from 0.
            upload: the image.
            topk: number of classes.
            threshold: minimum score of objects.
        """
        if upload is None:
            return views.hint()
        try:
            image, content = self._predict(self.models[index], upload, topk, threshold)
            return views.prediction(self.models[index], image, content)
        except UserError as problem:
            return views.error(problem)

    def show_attention(self, index: int, upload: Upload, point: Point) -> tuple[Any, str]:
        """Return the image as a model saw it with the query marked, and the attention of the query as HTML.

        Args:
            index: number of the model, from 0.
            upload: the image.
            point: the query, as fractions of the width and height of the image.
        """
        hidden = gr.update(value=None, visible=False)
        if upload is None:
            return hidden, ""
        try:
            path = self._path(upload)
        except UserError:  # the prediction says why
            return hidden, ""
        try:
            maps = self.models[index].attention(path)
        except ImageError:  # as well
            return hidden, ""
        except UserError as problem:
            return hidden, views.error(problem)
        try:
            inside = point_in_region(maps, point)
        except UserError as problem:
            return gr.skip(), views.error(problem)
        picture = gr.update(value=views.picture(maps, inside), visible=True)
        return picture, views.attention(self.models[index], maps, inside)

    def clicked_point(self, index: int, upload: Upload, event: gr.EventData) -> Point:
        """Return the clicked point of the picture of a model, as fractions of the whole image.

        Args:
            index: number of the model, from 0.
            upload: the image.
            event: the click.

        Raises:
            gradio.Error: the image cannot be read, or the click has no coordinates.
        """
        with _errors_for_clients():
            x, y = _clicked(event)
            maps = self._maps(self.models[index], upload)
        width, height = views.picture(maps, CENTER).size
        return point_in_image(maps, (x / width, y / height))

    def predict(self, image: Upload, model: Any, topk: Any, threshold: Any) -> dict[str, Any]:
        """Return the prediction of the endpoint /predict as JSON values.

        Args:
            image: the uploaded image.
            model: name of the model.
            topk: number of classes.
            threshold: minimum score of objects.

        Raises:
            gradio.Error: the image cannot be read, or an argument is invalid.
        """
        with _errors_for_clients():
            chosen = self._model(model)
            return {"model": chosen.name} | self._predict(chosen, image, topk, threshold)[1]

    def attention(self, image: Upload, model: Any, x: Any, y: Any) -> dict[str, Any]:
        """Return the attention of the endpoint /attention as JSON values.

        Args:
            image: the uploaded image.
            model: name of the model.
            x: query from the left, as fraction of the width of the image.
            y: query from the top, as fraction of its height.

        Raises:
            gradio.Error: the image cannot be read, or an argument is invalid.
        """
        with _errors_for_clients():
            chosen = self._model(model)
            maps = self._maps(chosen, image)
            point = point_in_region(maps, (_number("x", x), _number("y", y)))
            return views.attention_content(chosen, maps, point)

    def _predict(self, model: DemoModel, upload: Upload, topk: Any, threshold: Any) -> tuple[Any, dict[str, Any]]:
        """The prediction, and its JSON values with the name of the file instead of its path on the server."""
        path = self._path(upload)
        options = {"topk": int(_number("topk", topk)), "threshold": _number("threshold", threshold)}
        (image,) = model.predict(path, **options).images
        content = {name: value for name, value in image.to_dict().items() if name != "path"}
        return image, {"image": printable(path.name)} | content

    def _maps(self, model: DemoModel, upload: Upload) -> ImageMaps:
        path = self._path(upload)
        try:
            return model.attention(path)
        except ImageError as error:  # names the folder of uploads
            raise UserError(f"{printable(path.name)}: {error.reason}") from error

    def _path(self, upload: Upload) -> Path:
        return self._uploads.check(upload.get("path") if isinstance(upload, dict) else None)

    def _model(self, name: Any) -> DemoModel:
        for model in self.models:
            if model.name == name:
                return model
        raise unknown("model", str(name), [model.name for model in self.models])


def _number(name: str, value: Any) -> float:
    """A number that a client sent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"`{name}` must be a number, found {str(value)[:40]!r}")
    return value


def _clicked(event: gr.EventData) -> Point:
    """The pixel of a click, which clients can forge."""
    try:
        x, y = event.index
    except (AttributeError, TypeError, ValueError):
        raise UserError("the click has no coordinates; click the picture again") from None
    return _number("x", x), _number("y", y)


@contextmanager
def _errors_for_clients() -> Generator[None]:
    """Raise usage errors as those of Gradio, whose sentence clients receive."""
    try:
        yield
    except UserError as problem:
        raise gr.Error(views.sentence(problem), print_exception=False) from problem
