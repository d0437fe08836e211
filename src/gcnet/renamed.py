"""Old names of settings and values, and upgrades of files that were written with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcnet.errors import Failure, UserError, printable

FORMAT_VERSION = 3
"""Version of the names in run folders, model files, block files and results of comparisons; version 1 wrote none.

Version 3 has other losses of detectors with the conventions "mmdet", and names of presets for each conventions."""

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "network": {"options": "block_options", "at": "insert_at"},
    "detector": {
        "numerics": "conventions",
        "heads": "box_head",
        "short_side": "min_size",
        "long_side": "max_size",
        "anchor_sides": "anchor_sizes",
        "regions": "rois_per_image",
        "jitter": "large_scale_jitter",
        "width": "fpn_channels",
        "hidden": "head_width",
    },
    "data": {"root": "download_dir", "crop": "crop_pct"},
    "augment": {
        "crop": "random_crop",
        "flip": "hflip",
        "rand_augment": "auto_augment",
        "rand_magnitude": "ra_magnitude",
        "colour_jitter": "color_jitter",
    },
    "recipe": {
        "accumulate": "grad_accumulation",
        "block_lr": "block_lr_mult",
        "step_factor": "lr_gamma",
        "final_lr": "min_lr",
        "warmup_from": "warmup_start_factor",
        "clip_norm": "clip_grad_norm",
        "ema": "ema_decay",
        "freeze_norms": "freeze_bn_stats",
    },
    "output": {"pictures": "plots"},
    "block": {"normalisation": "normalization"},
    "check_data": {"listed": "max_listed"},
    "predict": {"top": "topk"},
}
"""Group of settings -> old name -> new name; a flag is the name with hyphens."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "norm": {"fixed": "eval_stats"},
    "auto_augment": {"trivial": "trivialaugment"},
    "preset": {"1x": "paper-1x", "2x": "paper-2x"},
}
"""New name of a setting -> old value -> new value."""

COST_KEYS: Mapping[str, str] = {
    "places": "sites",
    "forward_minimum": "forward_seconds_min",
    "forward_median": "forward_seconds_median",
    "step_minimum": "step_seconds_min",
    "step_median": "step_seconds_median",
    "peak_memory": "peak_memory_bytes",
    "batch": "batch_size",
    "memory_batch": "memory_batch_size",
}
"""Old key -> new key of costs and of their timing in costs.json and results.json."""

METRIC_KEYS: Mapping[str, str] = {
    "top1": "top1_fraction",
    "top5": "top5_fraction",
    "box_ap": "bbox_AP_fraction",
    "box_ap50": "bbox_AP50_fraction",
    "mask_ap": "segm_AP_fraction",
    "mask_ap50": "segm_AP50_fraction",
    "bbox_AP": "bbox_AP_fraction",
    "bbox_AP50": "bbox_AP50_fraction",
    "segm_AP": "segm_AP_fraction",
    "segm_AP50": "segm_AP50_fraction",
    "skipped_in_all": "skipped_total",
}
"""Old key -> new key of metrics, in rows of metrics.jsonl, checkpoints and results of comparisons; all from 0 to 1."""

_SKIPPED = ("augment", "crop")  # later, --crop was the flag of the center crop

OLD_VALUES: Mapping[str, str] = {old: new for values in VALUES.values() for old, new in values.items()}
"""Old value of any setting -> new value."""

_NAMES = {old: new for group, names in SETTINGS.items() for old, new in names.items() if (group, old) != _SKIPPED}
_DETECTORS = ("faster_rcnn_", "mask_rcnn_", "cascade_mask_rcnn_")


def new_name(old: str) -> str:
    """Return the new name of a setting, or "" where its name is not an old one.

    Args:
        old: such as "clip_norm", which gives "clip_grad_norm".
    """
    return _NAMES.get(old, "")


def new_flag(old: str) -> str:
    """Return the new name of a flag, or "" where its name is not an old one.

    Args:
        old: with dashes, such as "--no-pictures", which gives "--no-plots".
    """
    no, name = ("no-", old[5:]) if old.startswith("--no-") else ("", old[2:])
    new = new_name(name.replace("-", "_")).replace("_", "-")
    return f"--{no}{new}" if new else ""


def renamed(old: str, new: str) -> UserError:
    """Return the error for an old name of an argument or a flag: "--options is now --block-options".

    Args:
        old: old name.
        new: new name.
    """
    return UserError(f"{old} is now {new}")


def upgraded_group(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of settings under the names and with the values of this version.

    Args:
        group: name of the group, a key of `SETTINGS` where names changed.
        values: settings by their names of any version.
    """
    names = SETTINGS.get(group, {})
    read = {names.get(name, name): value for name, value in values.items()}
    return {name: _new_value(name, value) for name, value in read.items()}


def upgraded_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the upgraded settings of a run of an earlier version.

    Args:
        settings: of config.json, group by group.
    """
    groups = {name: upgraded_group(name, values) for name, values in settings.items()}
    is_detector = str(groups.get("network", {}).get("model", "")).startswith(_DETECTORS)
    if is_detector and groups.get("data", {}).get("interpolation") == "bilinear":
        groups["data"]["interpolation"] = None  # version 1 wrote the default of classifiers, which detectors ignore
    if not is_detector and groups.get("detector", {}).get("conventions") == "mmdet":
        groups["detector"]["conventions"] = None  # versions 1 and 2 wrote the default of detectors
    return groups


def upgraded_metadata(metadata: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the metadata of a model file or block file in this version's names.

    Args:
        metadata: as stored, of any version.
        path: of the file, for errors.

    Raises:
        UserError: the file is of a newer version than this package can read.
        Failure: the version is no positive integer.
    """
    format_version(metadata, path)
    if not is_old(metadata):
        return dict(metadata)
    upgraded = dict(metadata)
    if isinstance(metadata.get("detector"), Mapping):
        upgraded["detector"] = upgraded_group("detector", metadata["detector"])
    if isinstance(metadata.get("insertions"), list):
        upgraded["insertions"] = [_upgraded_insertion(record) for record in metadata["insertions"]]
    return upgraded


def upgraded_comparison(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the upgraded settings of the compare.json of an earlier version.

    Args:
        settings: of the comparison, with the groups as mappings.
    """
    upgraded = upgraded_group("network", settings)
    upgraded |= {name: upgraded_group(name, value) for name, value in upgraded.items() if isinstance(value, Mapping)}
    data = upgraded.get("data")
    if isinstance(data, dict) and settings.get("weights") is None and data.get("interpolation") == "bilinear":
        data["interpolation"] = None  # the default, which version 1 wrote
    detector = upgraded.get("detector")
    if isinstance(detector, dict) and detector.get("conventions") == "mmdet":
        detector["conventions"] = None  # the default, which versions 1 and 2 wrote
    return upgraded


def upgraded_costs(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the costs and their timing in costs.json and results.json of version 1, upgraded.

    Args:
        content: with the entries `costs`, by block, and `timing`.
    """
    costs = {block: _with_new_keys(cost) for block, cost in content["costs"].items()}
    return {**content, "costs": costs, "timing": _with_new_keys(content["timing"])}


def upgraded_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of metrics, of any version, under the keys of this version.

    Args:
        row: of metrics.jsonl, a checkpoint or the results of a comparison.
    """
    return {METRIC_KEYS.get(key, key): value for key, value in row.items()}


def changed_names(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of a run that have another name in this version, each as "old -> new".

    Args:
        settings: of config.json, group by group.
    """
    names = [(old, new) for group in settings for old, new in SETTINGS.get(group, {}).items() if old in settings[group]]
    return [f"{old} -> {new}" for old, new in names]


def format_version(stored: Mapping[str, Any], path: str | Path) -> int:
    """The format version of a file.

    Args:
        stored: its metadata; files of version 1 state none.
        path: of the file, for errors.

    Returns:
        The version, 1 to `FORMAT_VERSION`.

    Raises:
        UserError: the file is of a newer version than this package can read.
        Failure: the version is no positive integer.
    """
    version = stored.get("format_version", 1)
    if type(version) is not int or version < 1:
        raise Failure(f"{printable(path)} is damaged or was edited: format_version must be a positive integer")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{printable(path)} has format version {version}, and this version of gcnet reads up to {FORMAT_VERSION}: "
            "install a newer gcnet"
        )
    return version


def is_old(stored: Mapping[str, Any]) -> bool:
    """Whether the metadata `stored` in a file are of an earlier format version."""
    return stored.get("format_version", 1) < FORMAT_VERSION


def _with_new_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {COST_KEYS.get(key, key): value for key, value in values.items()}


def _upgraded_insertion(record: Any) -> Any:
    if not isinstance(record, Mapping) or not isinstance(record.get("options"), Mapping):
        return record  # damaged, which is reported where it is read
    return {**record, "options": upgraded_group("block", record["options"])}


def _new_value(name: str, value: Any) -> Any:
    return VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value
