"""`gcnet.write_card`: the model card of a model file, README.md with YAML metadata for the Hugging Face Hub."""

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.arguments import plain_arguments
from gcnet.blocks.registry import default_ratio
from gcnet.costs.networks import CountedNetwork, count
from gcnet.costs.report import CostReport, parts_table
from gcnet.data.decode import ImageError
from gcnet.data.images.inputs import image_inputs
from gcnet.data.scenes import Scenes
from gcnet.data.settings import Preprocessing
from gcnet.errors import UserError, printable
from gcnet.insertion import Insertion, inserted
from gcnet.models.card import ModelCard, card_of, network_name
from gcnet.publishing.metrics import (
    CardMetric,
    card_metrics,
    data_name,
    describe_metrics,
    run_data,
    run_settings,
)
from gcnet.publishing.settings import CardContent, CardSettings, is_license
from gcnet.storage import write_atomic
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.tasks.trained import TaskModel, open_trained
from gcnet.text_files import markdown_table, markdown_text
from gcnet.version import __version__
from gcnet.visualization.attention_figures import plot_queries, plot_shared
from gcnet.visualization.attention_maps import choose_points

README = "README.md"
_MOST_PICTURES = 4
_MOST_CLASSES = 30
_MOST_ROWS = 40
_GENERATED_SIDE = 256  # pixels
_CITATION = """
```bibtex
@inproceedings{cao2019gcnet,
  title={GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond},
  author={Cao, Yue and Xu, Jiarui and Lin, Stephen and Wei, Fangyun and Hu, Han},
  booktitle={IEEE/CVF International Conference on Computer Vision Workshops (ICCVW)},
  year={2019}
}

@article{cao2020gcnet,
  title={Global Context Networks},
  author={Cao, Yue and Xu, Jiarui and Lin, Stephen and Wei, Fangyun and Hu, Han},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2020}
}
```
""".strip()


def run_card(settings: CardSettings) -> list[Path]:
    """`write_card` of settings.

    Args:
        settings: of the card.

    Returns:
        The files written.

    Raises:
        UserError: no such model, or README.md exists.
        StorageError: a file cannot be written.
    """
    readme = settings.output / README
    if readme.exists() and not settings.overwrite:
        raise UserError(f"`output`: {printable(readme)} exists already; `overwrite` replaces it")
    loaded = open_trained(settings.model)
    files = card_files(loaded, settings.content, model=_quoted(Path(loaded.weights).name), name=_name_of(loaded))
    settings.output.mkdir(parents=True, exist_ok=True)
    for name, content in reversed(files.items()):  # README.md last, so that a failed call can be repeated
        write_atomic(settings.output / name, content)
    return [settings.output / name for name in files]


@plain_arguments(CardSettings)
def write_card(settings: CardSettings) -> list[Path]:
    """Write the model card of a trained model: README.md, and pictures of attention beside it.

    Returns:
        The files written.

    Raises:
        UserError: no such model, or README.md exists.
        StorageError: a file cannot be written.

    Example:
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> [file.name for file in gcnet.write_card("scenes.safetensors", license="apache-2.0")]
        ['README.md', 'attention.png']
    """
    return run_card(settings)


def card_files(loaded: TaskModel, content: CardContent, *, model: str, name: str) -> dict[str, bytes]:
    """Return README.md and the pictures of attention.

    Args:
        loaded: a trained network; its weights are a model file.
        content: settings of the card.
        model: first arguments of `gcnet.load` in Python, for the section on loading.
        name: of the model.

    Returns:
        Contents by file name.

    Raises:
        UserError: the model has no preprocessing, or `results` or `images` do not suit it.
    """
    pictures = attention_pictures(loaded, content.images)
    facts = _Facts(loaded, content, name)
    return {README: facts.readme(model, list(pictures)).encode()} | pictures


def attention_pictures(loaded: TaskModel, images: Sequence[Path]) -> dict[str, bytes]:
    """Draw the attention maps of images.

    Args:
        loaded: a trained network.
        images: image files, of which the first four are drawn; none for a generated image.

    Returns:
        PNG files by name; none of a network without attention maps.

    Raises:
        UserError: an image does not exist or cannot be read.
    """
    inputs = image_inputs(list(images) or [Scenes(1, size=_GENERATED_SIDE).read(0)])[:_MOST_PICTURES]
    pictures: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, item in enumerate(inputs, start=1):
            file = Path(folder, f"image {number}" if images else "generated image")  # without names of the user
            try:
                item.open().save(file, "PNG")
            except ImageError as error:
                raise UserError(f"`images`: {printable(item.name)} cannot be read: {error.reason}") from error
            maps = loaded.task.attention_reader(loaded, AnalyzeSettings(loaded.origin, images=(file,))).read(file)
            drawn = Path(folder, "attention.png")
            if plot_shared(maps, drawn) or plot_queries(maps, choose_points(("auto",), maps.image), drawn):
                name = "attention.png" if len(inputs) == 1 else f"attention-{number}.png"
                pictures[name] = drawn.read_bytes()
    return pictures


def _name_of(loaded: TaskModel) -> str:
    return printable(Path(loaded.origin).resolve().name.removesuffix(".safetensors"))


def _quoted(name: str) -> str:
    """A Python string with the value of `name`."""
    return json.dumps(name, ensure_ascii=False) if name.isprintable() else ascii(name)


@dataclass(frozen=True)
class _Facts:
    """Content of a card, from a model file and its run folder."""

    loaded: TaskModel
    content: CardContent
    name: str

    @property
    def card(self) -> ModelCard:
        return card_of(self.loaded.trained.model)

    @property
    def run(self) -> Path | None:
        folder = Path(self.loaded.origin)
        return folder if (folder / "config.json").is_file() else None

    @property
    def license(self) -> str | None:
        found = self.content.license or (self.card.provenance or {}).get("license")
        return str(found).lower() if found else None

    def readme(self, model: str, pictures: Sequence[str]) -> str:
        card, task = self.card, self.loaded.task
        metrics = card_metrics(task, card, run=self.run, results=self.content.results)
        sections = [
            f"---\n{self._metadata(metrics)}\n---",
            f"# {markdown_text(self.name)}",
            self._summary(),
            *(f"![Attention maps: color is attention relative to uniform attention]({name})" for name in pictures),
            f"## How to load\n\n{_loading(model)}",
            f"## Data\n\n{self._data()}",
            f"## Metrics\n\n{_metrics_text(metrics)}",
            f"## Blocks\n\n{self._blocks()}",
            f"## Cost\n\n{self._cost()}",
            *([f"## Training\n\n{_training_text(run_settings(self.run))}"] if self.run else []),
            f"## License\n\n{markdown_text(self.license) if self.license else 'Not stated.'}",
            f"## Citation\n\n{_CITATION}",
            f"SHA-256 of the model file: `{_digest(Path(self.loaded.weights))}`. Card by gcnet {__version__}.",
        ]
        return "\n\n".join(sections) + "\n"

    def _metadata(self, metrics: Sequence[CardMetric]) -> str:
        from huggingface_hub import EvalResult, ModelCardData

        blocks = [insertion.block for insertion in inserted(self.loaded.trained.model)]
        task = self.loaded.task.hub_task
        results = [
            EvalResult(
                task_type=task or "other",
                dataset_type=re.sub(r"[^\w.-]+", "-", metric.data).strip("-") or "unknown",
                dataset_name=metric.data or "unknown",
                metric_type=metric.key,
                metric_name=metric.name,
                metric_value=round(metric.value, 6),
            )
            for metric in metrics
        ]
        data: Any = ModelCardData(
            library_name="gcnet",
            pipeline_tag=task or None,
            license=self.license if is_license(self.license or "") else self.license and "other",
            tags=list(dict.fromkeys(["gcnet", "pytorch", *(["global-context"] if blocks else []), *blocks])),
            model_name=self.name if results else None,
            eval_results=results or None,
            metrics=list(dict.fromkeys(metric.key for metric in metrics)) or None,
        )
        return data.to_yaml().strip()

    def _summary(self) -> str:
        task, model = self.loaded.task, self.loaded.trained.model
        provenance = self.card.provenance or {}
        origin = provenance.get("name") or provenance.get("source")
        converted = f" The weights are converted from {markdown_text(str(origin))}." if origin else ""
        return f"A {task.noun} for {self.card.num_classes:,} classes: {network_name(model)}, in PyTorch.{converted}"

    def _data(self) -> str:
        card, lines = self.card, []
        data = data_name(run_data(self.run)) if self.run else (card.provenance or {}).get("dataset")
        lines.append(f"- trained on: {markdown_text(str(data)) if data else 'not recorded in the file'}")
        if card.class_names:
            shown = ", ".join(map(markdown_text, card.class_names[:_MOST_CLASSES]))
            rest = len(card.class_names) - _MOST_CLASSES
            lines.append(f"- classes: {shown}" + (f", and {rest:,} more" if rest > 0 else ""))
        if card.preprocessing:
            lines.append(f"- preprocessing: {Preprocessing.from_dict(card.preprocessing)}")
        return "\n".join(lines)

    def _cost(self) -> str:
        network = CountedNetwork(self.loaded.weights, {})
        try:
            return _cost_text(count(network, network.size(), 1))
        except UserError:  # such as batch norm of one value
            parameters = sum(parameter.numel() for parameter in self.loaded.trained.model.parameters())
            return f"{parameters:,} parameters. FLOPs are not counted: one image of this size is too small."

    def _blocks(self) -> str:
        rows = [
            (
                insertion.block,
                _ratio(insertion),
                (insertion.position or "output of the module").replace("_", " "),
                f"{len(insertion.sites)}",
                f"{insertion.parameters:,}",
            )
            for insertion in inserted(self.loaded.trained.model)
        ]
        return (
            markdown_table(("block", "ratio", "position", "number", "parameters"), rows) if rows else "None inserted."
        )


def _ratio(insertion: Insertion) -> str:
    ratio = insertion.ratio or default_ratio(insertion.block)
    return "-" if ratio is None else f"{ratio:g}"


def _loading(model: str) -> str:
    return f"""```python
import gcnet
import numpy as np

predictor = gcnet.load({model})
image = np.zeros((480, 640, 3), dtype=np.uint8)  # or the path of an image
print(predictor(image))
```

`predictor.model` is the network, a `torch.nn.Module`. Loading executes no code of this repository."""


def _metrics_text(metrics: Sequence[CardMetric]) -> str:
    if not metrics:
        return "None in the file."
    headings = ("metric", "value", "95% interval", "images", "data")
    rows = [tuple(map(markdown_text, row)) for row in describe_metrics(metrics)]
    table = markdown_table(headings, rows, right=headings[1:-1])
    notes = [f"Source: {markdown_text(metrics[0].source)}."]
    if not all(metric.is_share for metric in metrics):
        notes.append("AP is from 0 to 100.")
    if any(metric.interval for metric in metrics):
        notes.append("Intervals are Wilson intervals over the images; they exclude the variation between trainings.")
    return f"{table}\n\n{' '.join(notes)}"


def _cost_text(report: CostReport) -> str:
    shown = report if len(report.lines) <= _MOST_ROWS else CostReport(report.model, report.size, 1, (report.total,))
    note = (
        "A multiply-add counts as two FLOPs; papers print multiply-adds (MACs) under that name. Activations are those "
        "that a training step keeps for the backward pass."
    )
    return f"For one image of {report.size[0]} x {report.size[1]} pixels.\n\n{parts_table(shown, None)}\n\n{note}"


def _training_text(settings: dict[str, Any]) -> str:
    recipe, network = settings.get("recipe", {}), settings.get("network", {})
    weights = network.get("weights")
    lines = [f"- initial weights: {markdown_text(Path(weights).name) if weights else 'random'}"]
    names = ("epochs", "steps", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "label_smoothing")
    lines += [
        f"- {name.replace('_', ' ')}: {markdown_text(str(recipe[name]))}"
        for name in names
        if recipe.get(name) is not None
    ]
    seed = settings.get("machine", {}).get("seed")
    return "\n".join(lines + ([] if seed is None else [f"- seed: {seed}"]))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
