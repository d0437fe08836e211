"""Inert stand-ins for the classes that training programs pickle beside weights: none of their code runs."""

from collections import OrderedDict
from typing import Any


class Inert(list[Any]):
    """Stand-in for any class or function in a pickle; accepts everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        """Create an empty instance, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""

    def __hash__(self) -> int:  # type: ignore[override]
        """By identity, since dictionaries of training programs have classes as keys."""
        return id(self)


_NUMPY = ("numpy.core", "numpy._core")
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePosixPath")
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
_INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "builtins.getattr", "_codecs.encode", "typing.Any"),
    *("datetime.datetime", "datetime.timedelta", "collections.deque"),
    *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in _PATHS),
    *(f"{core}.multiarray.{name}" for core in _NUMPY for name in ("scalar", "_reconstruct")),
    *(f"{core}.numeric._frombuffer" for core in _NUMPY),
    *(f"numpy.{kind}" for kind in ("dtype", "ndarray", "bool_", "float64", "float32", "int64", "int32")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"omegaconf.{kind}" for kind in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{kind}" for kind in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean")),
    *(f"{name}.callbacks.{kind}" for name in _LIGHTNING for kind in ("model_checkpoint.ModelCheckpoint",)),
    *(f"{name}.callbacks.{kind}" for name in _LIGHTNING for kind in ("early_stopping.EarlyStopping",)),
)
_DICTIONARIES = (
    *(f"{module}.ConfigDict" for module in ("mmengine.config.config", "mmcv.utils.config")),
    *(f"{module}.CfgNode" for module in ("yacs.config", "fvcore.common.config", "detectron2.config.config")),
    *("easydict.EasyDict", "addict.addict.Dict", "pytorch_lightning.utilities.parsing.AttributeDict"),
    *(f"{name}.utilities.data.AttributeDict" for name in ("lightning.fabric", "lightning_fabric")),
)

# Settings, counters, paths and histories: the stand-in, and the name it stands for. Nothing of that name is imported.
STAND_INS: tuple[tuple[Any, str], ...] = (
    *((Inert, name) for name in _INERT),
    *((OrderedDict, name) for name in _DICTIONARIES),
)
