"""Settings of `gcnet card` and `gcnet push`; imports neither torch nor numpy."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError, printable


@dataclass(frozen=True)
class CardContent:
    """Content of the card."""

    results: Path | None = None
    """results.json of gcnet evaluate, for the table of metrics (default: the best evaluation of a run folder, or the
    published scores of a converted checkpoint)."""
    images: tuple[Path, ...] = ()
    """Images for the pictures of attention, which everyone can see (default: a generated image)."""
    license: str | None = None
    """License of the weights, such as apache-2.0 or cc-by-nc-4.0 (default: that of a converted checkpoint)."""

    def __post_init__(self) -> None:
        """Refuse a license that is no identifier."""
        if self.license is not None and not is_license(self.license):
            raise UserError(
                "`license` must be an identifier such as apache-2.0, cc-by-nc-4.0 or other, found "
                f'"{printable(self.license)}"'
            )


@dataclass(frozen=True)
class CardSettings:
    """Write the model card of a trained model: README.md, with pictures of attention beside it.

    All content is from the model file: network, data, metrics, blocks, cost, how to load it, license and citation.

    Examples:
      gcnet card runs/first
      gcnet card model.safetensors --results evaluation/results.json --output card
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), model on the Hugging Face Hub (hf://user/name), or published
    checkpoint (`gcnet models --published` lists them)."""
    output: Path = Path("card")
    """Folder for README.md and the pictures."""
    overwrite: bool = False
    """Overwrite an existing README.md."""
    content: CardContent = field(default_factory=CardContent)
    """Content of the card."""


@dataclass(frozen=True)
class PushSettings:
    """Push a trained model to a repository on the Hugging Face Hub, with its model card.

    The repository is created if it does not exist. The token is that of `hf auth login`, or HF_TOKEN. The model
    is then available as hf://user/name, to everyone unless the repository is private.

    Examples:
      gcnet push runs/first user/first
      gcnet push model.safetensors user/scenes --private --license apache-2.0
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), or published checkpoint (`gcnet models --published` lists
    them)."""
    repository: str = field(metadata=POSITIONAL)
    """Repository on the Hub: user/name or organization/name."""
    private: bool = False
    """Create a private repository; an existing one stays as it is."""
    overwrite: bool = False
    """Replace the README.md of the repository, too; otherwise an existing one stays."""
    content: CardContent = field(default_factory=CardContent)
    """Content of the card."""

    def __post_init__(self) -> None:
        """Refuse an invalid name of a repository."""
        check_repository(self.repository)


def is_license(text: str) -> bool:
    """Whether `text` can be the identifier of a license."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text) is not None


def check_repository(name: str) -> None:
    """Check the name of a repository.

    Args:
        name: such as user/name.

    Raises:
        UserError: it is not user/name.
    """
    from gcnet.checkpoints.hub import SCHEME, is_repository

    if not is_repository(name):
        proposal = f'; did you mean "{name.removeprefix(SCHEME)}"?' if name.startswith(SCHEME) else ""
        raise UserError(f"`repository` must be user/name, found {name or 'nothing'}{proposal}")
