"""The components and events of the page and the HTTP endpoints, built with Gradio."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from gcnet.demo import views
from gcnet.demo.handlers import CENTER, Handlers, Upload
from gcnet.demo.models import DemoModel
from gcnet.demo.uploads import EXAMPLES
from gcnet.visualization.attention_maps import Point

_MOST_CLASSES = 20
_KEPT_SECONDS = 600
"""Time after which uploaded files are deleted."""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "DejaVu Sans", "sans-serif"]
_MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def theme() -> Any:
    """Return the theme of the page, with fonts of the visitor's system."""
    return gr.themes.Default(primary_hue="sky", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE)


class _Page(gr.Blocks):
    """A page that answers invalid values of a request with a sentence; Gradio prints a traceback for each."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            values = await super().preprocess_data(block_fn, *args, **kwargs)
            if any(
                value is None and isinstance(block, gr.Dataset)
                for block, value in zip(block_fn.inputs, values, strict=True)
            ):
                raise ValueError("no example is chosen")
            return values
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(
                "the request is invalid: values are missing or of another type", print_exception=False
            ) from error


def build_page(handlers: Handlers, examples: Sequence[Path]) -> gr.Blocks:
    """Build the page and the HTTP endpoints.

    Args:
        handlers: of the events.
        examples: example images.

    Returns:
        The page, to be launched.
    """
    models = handlers.models
    title = " and ".join(model.name for model in models)
    with _Page(title=f"{title} - gcnet demo", analytics_enabled=False, delete_cache=(60, _KEPT_SECONDS)) as blocks:
        gr.HTML(views.heading(models), padding=False)
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=320,
                    elem_classes="gc-input",
                )
                gr.Examples(
                    [[str(path)] for path in examples],
                    [image],
                    label="Examples",
                    examples_per_page=EXAMPLES,
                    api_visibility="private",
                )
                options = _options(models)
            columns = [_model_column(model, is_only=len(models) == 1) for model in models]
        point = gr.State(CENTER)
        _connect(handlers, image, options, point, columns)
        _add_endpoints(handlers)
    return blocks


def _options(models: Sequence[DemoModel]) -> list[Any]:
    most = max((len(model.classes) for model in models if not model.is_detector), default=1)
    has_detector = any(model.is_detector for model in models)
    return [
        gr.Slider(
            1, max(2, min(most, _MOST_CLASSES)), value=min(5, most), step=1, label="Number of classes", visible=most > 1
        ),
        gr.Slider(0, 1, value=0.5, step=0.01, label="Minimum score of objects (0 to 1)", visible=has_detector),
    ]


def _model_column(model: DemoModel, *, is_only: bool) -> tuple[Any, Any, Any]:
    """The prediction, the picture to click and the attention of a model; the attention of the only one is beside."""
    with gr.Column(min_width=300):
        gr.HTML(views.model_heading(model), padding=False)
        prediction = gr.HTML(views.hint(), elem_classes="gc-prediction", padding=False)
        picture = gr.Image(
            label="Image as the network sees it: click a point",
            interactive=False,
            buttons=[],
            visible=False,
            format="png",
            elem_classes="gc-picture",
        )
        if not is_only:
            return prediction, picture, gr.HTML(elem_classes="gc-attention", padding=False)
    with gr.Column(min_width=300):
        return prediction, picture, gr.HTML(elem_classes="gc-attention", padding=False)


def _connect(
    handlers: Handlers, image: Any, options: Sequence[Any], point: Any, columns: Sequence[tuple[Any, Any, Any]]
) -> None:
    """Run the models one after the other when the image or the point changes."""
    shared: dict[str, Any] = {
        "concurrency_id": "models",
        "concurrency_limit": 1,
        "api_visibility": "private",
        "preprocess": False,
    }
    event = image.change(lambda: CENTER, None, point, **shared)
    for index, (prediction, _, _) in enumerate(columns):
        predict = partial(handlers.show_prediction, index)
        event = event.then(predict, [image, *options], prediction, **shared)
        for option in options:
            option.release(predict, [image, *options], prediction, **shared)
    clicks = [
        picture.select(_choosing(handlers, index), image, point, **shared)
        for index, (_, picture, _) in enumerate(columns)
    ]
    for start in (event, *clicks):
        for index, (_, picture, attention) in enumerate(columns):
            show = partial(handlers.show_attention, index)
            start = start.then(show, [image, point], [picture, attention], **shared)


def _choosing(handlers: Handlers, index: int) -> Callable[..., Point]:
    def choose(upload: Upload, event: gr.EventData) -> Point:
        return handlers.clicked_point(index, upload, event)

    return choose


def _add_endpoints(handlers: Handlers) -> None:
    """Add /predict and /attention, whose components are not shown."""
    names = [model.name for model in handlers.models]
    with gr.Column(visible=False):
        image = gr.Image(label="image", type="filepath")
        model = gr.Dropdown(names, value=names[0], label="model")
        topk, threshold = gr.Number(5, precision=0, label="topk"), gr.Number(0.5, label="threshold")
        x, y = gr.Number(0.5, label="x"), gr.Number(0.5, label="y")
        answer, button = gr.JSON(), gr.Button()
    shared: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1, "preprocess": False}
    button.click(handlers.predict, [image, model, topk, threshold], answer, api_name="predict", **shared)
    button.click(handlers.attention, [image, model, x, y], answer, api_name="attention", **shared)
