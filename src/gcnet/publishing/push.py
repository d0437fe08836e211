"""`gcnet.push`: pushes a trained model and its card to the Hugging Face Hub."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gcnet.checkpoints.hub import MODEL_FILE, SCHEME, hub_endpoint, hub_errors
from gcnet.errors import UserError
from gcnet.models.card import card_of
from gcnet.models.model_file import save_model
from gcnet.publishing.card import README, card_files
from gcnet.publishing.settings import CardContent, check_repository
from gcnet.tasks.predictor import Predictor
from gcnet.tasks.trained import open_trained


@dataclass(frozen=True)
class PushedModel:
    """Result of `gcnet.push`; `str()` gives name, commit and URL.

    Attributes:
        name: for `gcnet.load`, such as "hf://user/name".
        commit: 40 hexadecimal digits.
        url: of the repository.
        files: names of the files.
    """

    name: str
    commit: str
    url: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"pushed {', '.join(self.files)} to {self.name}, commit {self.commit}: {self.url}"


def push(
    model: str | Path | nn.Module | Predictor,
    repository: str,
    *,
    private: bool = False,
    results: str | Path | None = None,
    images: str | Path | Sequence[str | Path] = (),
    license: str | None = None,
    overwrite: bool = False,
) -> PushedModel:
    """Push a trained model and its model card to a repository on the Hugging Face Hub, which is created if missing.

    The model file is model.safetensors. The token is that of `hf auth login`, or `HF_TOKEN`.

    Args:
        model: model file, run folder (its best weights are used), published checkpoint, network with a model card (from
            `create_model`, with preprocessing from `save_model` or `load`), or predictor.
        repository: user/name or organization/name.
        private: create a private repository; an existing one stays as it is.
        results: results.json of `gcnet.evaluate`, for the table of metrics of the card (default: the best evaluation of
            a run folder, or the published scores of a converted checkpoint).
        images: image file or files for the pictures of attention, which everyone can see (default: a generated image).
        license: of the weights, such as "apache-2.0" (default: that of a converted checkpoint).
        overwrite: replace the README.md of the repository, too; otherwise an existing one stays.

    Returns:
        Name, commit and URL.

    Raises:
        UserError: an invalid name, no token, no access, or a model without preprocessing.
        Failure: the Hub cannot be reached.
    """
    from huggingface_hub import get_token

    check_repository(repository)
    if get_token() is None:
        raise UserError(f"pushing to {repository} needs a token: log in with `hf auth login`, or set HF_TOKEN")
    chosen = [images] if isinstance(images, str | Path) else images
    content = CardContent(None if results is None else Path(results), tuple(map(Path, chosen)), license)
    with tempfile.TemporaryDirectory() as folder:
        named = str(model) if isinstance(model, str | Path) else _saved(model, Path(folder, MODEL_FILE))
        loaded = open_trained(named)
        arguments = f'"{SCHEME}{repository}", download=True'
        files = card_files(loaded, content, model=arguments, name=repository.rpartition("/")[2])
        return _upload(repository, Path(loaded.weights), files, private=private, overwrite=overwrite)


def _saved(model: object, path: Path) -> str:
    network = model.model if isinstance(model, Predictor) else model
    if not isinstance(network, nn.Module):
        raise UserError(f"`model` must be a model file, run folder, network or predictor, found {type(model).__name__}")
    if card_of(network).num_classes is None:
        raise UserError(
            "`model` must be a network of gcnet.create_model, gcnet.load_model or gcnet.load: others cannot rebuild a "
            "network of your own from its file"
        )
    preprocessing = getattr(model, "preprocessing", None)
    names = model.names if isinstance(model, Predictor) else None
    save_model(
        network,
        path,
        preprocessing=None if preprocessing is None else preprocessing.to_dict(),
        class_names=names,
    )
    return str(path)


def _upload(repository: str, weights: Path, files: dict[str, bytes], *, private: bool, overwrite: bool) -> PushedModel:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=hub_endpoint(), library_name="gcnet")
    with hub_errors(repository, action="push"):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if not overwrite and api.file_exists(repository, README):
            del files[README]
        contents: dict[str, bytes | str] = {MODEL_FILE: str(weights.resolve()), **files}
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        commit = api.create_commit(repository, operations, commit_message="Push of a gcnet model")
    return PushedModel(f"{SCHEME}{repository}", commit.oid, f"{api.endpoint}/{repository}", tuple(contents))
