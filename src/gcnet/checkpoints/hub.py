"""Model files on the Hugging Face Hub: names, the cache and downloads. Only model.safetensors is ever downloaded."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from gcnet.checkpoints.download import LARGEST_FILE, connection_failure
from gcnet.errors import Failure, UserError, printable
from gcnet.storage import StorageError

SCHEME = "hf://"
MODEL_FILE = "model.safetensors"
_NAME = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[\w.-]+?)(?:@([\w.-]+(?:/[\w.-]+)*))?", re.ASCII)
_PAGE = "https://huggingface.co/"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 10.0  # without an answer
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub.

    Attributes:
        repository: user or organization, and name: "user/name".
        revision: branch, tag or commit.
    """

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}"


class Unreachable(Failure):
    """The Hub does not answer."""


def is_hub_name(text: object) -> bool:
    """Whether `text` names a model on the Hub, rightly or wrongly spelled, or is its page."""
    return isinstance(text, str) and text.lower().startswith((SCHEME, _PAGE))


def find_hub_model(text: str) -> HubModel:
    """Return the model on the Hub called `text`.

    Raises:
        UserError: the name is not hf://user/name or hf://user/name@revision.
    """
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or not is_repository(match[1]):
        raise UserError(
            f"models on the Hugging Face Hub are named {SCHEME}user/name or {SCHEME}user/name@revision, "
            f"found {printable(text)}{_proposal(text)}"
        )
    return HubModel(match[1], match[2] or "main")


def _proposal(text: str) -> str:
    """The name that a page or a name in capitals stands for, to append to a sentence."""
    for prefix in (_PAGE, SCHEME):
        repository = "/".join(text[len(prefix) :].split("/")[:2]).partition("@")[0]
        if text.lower().startswith(prefix) and is_repository(repository):
            return f"; did you mean {SCHEME}{repository}?"
    return ""


def is_repository(text: str) -> bool:
    """Whether `text` is a valid "user/name" of the Hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def hub_file(name: str, *, download: bool) -> Path:
    """Return the model file of a model on the Hub, from the cache of huggingface_hub.

    Args:
        name: hf://user/name or hf://user/name@revision.
        download: get the newest commit of the revision. Where the Hub cannot be reached, a cached commit is used.

    Returns:
        The file in the cache; its folder has the name of the commit.

    Raises:
        UserError: an invalid name; a model that is not in the cache, and `download` is false; no such repository,
            revision or model file.
        Failure: the Hub does not answer, or the download is interrupted.
        StorageError: the cache cannot be written.
    """
    model = find_hub_model(name)
    cached = _cached(model)
    if cached is not None and (not download or _COMMIT.fullmatch(model.revision)):
        return cached
    if not download:
        raise UserError(f"{model} is not in the cache: add `download` to download it")
    try:
        return _download(model)
    except Unreachable as error:
        if cached is None:
            raise
        _logger.warning("%s; using commit %s of the cache", error, cached.parent.name)
        return cached


def with_commit(name: str) -> str:
    """Return the model `name` on the Hub with the commit in the cache as its revision; unchanged if it has none."""
    model = find_hub_model(name)
    cached = _cached(model)
    return name if cached is None else f"{SCHEME}{model.repository}@{cached.parent.name}"


def hub_endpoint() -> str:
    """Return the URL of the Hub: `HF_ENDPOINT`, by default https://huggingface.co."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _cached(model: HubModel) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(model.repository, MODEL_FILE, revision=model.revision)
    return Path(file) if isinstance(file, str) else None


def _download(model: HubModel) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    endpoint = hub_endpoint()
    with hub_errors(str(model)):
        url = hf_hub_url(model.repository, MODEL_FILE, revision=model.revision, endpoint=endpoint)
        metadata = get_hf_file_metadata(url, timeout=_SECONDS, endpoint=endpoint)
        if metadata.commit_hash is None or not _COMMIT.fullmatch(metadata.commit_hash):
            raise Failure(f"cannot download {model}: {endpoint} answers without a commit, and is no Hub")
        _check_size(model, metadata.size)
        # By revision, so that the cache finds it under this name again.
        file = Path(
            hf_hub_download(
                model.repository, MODEL_FILE, revision=model.revision, endpoint=endpoint, etag_timeout=_SECONDS
            )
        )
    _logger.info("%s: commit %s", model, file.parent.name)
    return file


def _check_size(model: HubModel, size: int | None) -> None:
    from huggingface_hub import constants

    if size is not None and size > LARGEST_FILE:
        raise Failure(f"cannot download {model}: its file has {size:,} bytes, the limit is {LARGEST_FILE:,}")
    place = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if size is not None and size > free:
        raise StorageError(f"cannot download {model} to {printable(place)}: it has {size:,} bytes, {free:,} are free")


@contextmanager
def hub_errors(subject: str, *, action: str = "download") -> Generator[None]:
    """Context that checks that the Hub can be reached, and converts errors of huggingface_hub.

    Args:
        subject: the model or repository, for errors.
        action: "download" or "push".

    Raises:
        UserError: no such repository, revision or file, or no access.
        Failure: the Hub cannot be reached or fails.
        StorageError: a file cannot be written.
    """
    from huggingface_hub import constants, errors

    endpoint = hub_endpoint()
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(f"cannot {action} {subject}: HF_HUB_OFFLINE is set")
    server = urlparse(endpoint)
    failure = connection_failure(server.hostname or "", server.port or (80 if server.scheme == "http" else 443))
    if failure is not None:
        raise Unreachable(f"cannot {action} {subject}: {endpoint} cannot be reached ({failure})") from failure
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{subject} is gated: request access at {endpoint}, and {log_in}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{subject} does not exist: the repository has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{endpoint} has no repository {subject}, or it is private: {log_in}") from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError):  # not in the cache, since the server failed
            raise Unreachable(f"cannot {action} {subject}: {endpoint} does not answer") from error
        raise UserError(f"{subject} has no {MODEL_FILE}, so that it is no model of gcnet") from error
    except errors.HfHubHTTPError as error:
        raise _refused(error, subject, action, log_in) from error
    except errors.FileMetadataError as error:
        raise Failure(f"cannot {action} {subject}: {endpoint} is no Hub ({_first_line(error)})") from error
    except errors.HTTPError as error:
        raise Failure(f"the connection to {endpoint} was interrupted: {action} {subject} again") from error
    except OSError as error:
        raise _file_failed(error, subject, action) from error
    except RuntimeError as error:  # of an upload
        raise Failure(f"cannot {action} {subject}: {_first_line(error.__cause__ or error)}") from error


def _refused(error: Any, subject: str, action: str, log_in: str) -> UserError:
    status = error.response.status_code
    if status in (401, 403):
        return UserError(f"cannot {action} {subject}: the Hub denies access ({status}); {log_in}")
    reason = _first_line(getattr(error, "server_message", None) or error.response.reason_phrase)
    return Failure(f"cannot {action} {subject}: the Hub answers {status} ({reason})")


def _file_failed(error: OSError, subject: str, action: str) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"cannot {action} {subject}: the disk is full")
    if error.strerror:
        place = f"{printable(str(error.filename))}: " if error.filename else ""
        return StorageError(f"cannot {action} {subject}: {place}{error.strerror}")
    return Failure(f"cannot {action} {subject}: {_first_line(error)}")


def _first_line(error: object) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))
