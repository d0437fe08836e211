"""Check of `download`: data sets, models and weights that can be downloaded; imports neither torch nor numpy."""

import os
from collections.abc import Iterable

from gcnet.errors import UserError


def check_download(
    networks: Iterable[str | None], data: str | None = None, *, weights: Iterable[str | None] = ()
) -> None:
    """Refuse `download` if neither networks nor data can be downloaded.

    Args:
        networks: models of a command, which may be models on the Hub or published checkpoints.
        data: `data` of a command that downloads data sets.
        weights: weights of a command, which may also be published versions, such as "pretrained".

    Raises:
        UserError: `download` has no effect.
    """
    from gcnet.checkpoints.hub import is_hub_name
    from gcnet.checkpoints.published_files import names_published_file

    def is_remote(name: str | None) -> bool:
        return name is not None and (is_hub_name(name) or names_published_file(name))

    def is_version(name: str | None) -> bool:
        return name is not None and not (os.path.exists(name) or os.sep in name or os.path.splitext(name)[1])

    weights = list(weights)
    sets = "" if data is None else "`data` cifar10 or cifar100, or to "
    versions = "published weights, such as `weights=pretrained`, " if weights else ""
    if data in ("cifar10", "cifar100") or any(map(is_remote, [*networks, *weights])) or any(map(is_version, weights)):
        return
    raise UserError(
        f"`download` belongs to {sets}{versions}a model on the Hub, such as hf://user/name, or a published checkpoint, "
        "which gcnet models --published lists"
    )
