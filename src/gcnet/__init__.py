"""Global context blocks for vision networks: insertion, models, training, evaluation and comparison."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gcnet.version import __version__ as __version__

if TYPE_CHECKING:
    from gcnet import analysis
    from gcnet.blocks import build_block, list_blocks
    from gcnet.comparison.experiment import compare
    from gcnet.costs.cost import cost
    from gcnet.experiments.reproduce import reproduce
    from gcnet.insertion import context_parameters, insert, inserted, remove
    from gcnet.insertion.fuse import fuse
    from gcnet.models.block_file import load_context, save_context
    from gcnet.models.create import create_model
    from gcnet.models.load import load_model
    from gcnet.models.model_file import save_model
    from gcnet.models.registry import list_detectors, list_models
    from gcnet.publishing.card import write_card
    from gcnet.publishing.push import push
    from gcnet.workflows.analyze import analyze
    from gcnet.workflows.check_data import check_data
    from gcnet.workflows.convert_checkpoint import convert_checkpoint
    from gcnet.workflows.evaluate import evaluate
    from gcnet.workflows.export import export
    from gcnet.workflows.load import load
    from gcnet.workflows.predict import predict
    from gcnet.workflows.resume import resume
    from gcnet.workflows.simplify import simplify
    from gcnet.workflows.train import train

__all__ = [
    "analysis",
    "build_block",
    "context_parameters",
    "create_model",
    "fuse",
    "insert",
    "inserted",
    "list_blocks",
    "list_detectors",
    "list_models",
    "load_context",
    "load_model",
    "remove",
    "save_context",
    "save_model",
    "analyze",
    "check_data",
    "compare",
    "convert_checkpoint",
    "cost",
    "evaluate",
    "export",
    "load",
    "predict",
    "push",
    "reproduce",
    "resume",
    "simplify",
    "train",
    "write_card",
]

# Read on first use, so that importing the package (and `gcnet `help``) does not import torch.
_HOMES = {
    "analyze": "gcnet.workflows.analyze",
    "check_data": "gcnet.workflows.check_data",
    "compare": "gcnet.comparison.experiment",
    "convert_checkpoint": "gcnet.workflows.convert_checkpoint",
    "cost": "gcnet.costs.cost",
    "evaluate": "gcnet.workflows.evaluate",
    "export": "gcnet.workflows.export",
    "load": "gcnet.workflows.load",
    "predict": "gcnet.workflows.predict",
    "push": "gcnet.publishing.push",
    "reproduce": "gcnet.experiments.reproduce",
    "resume": "gcnet.workflows.resume",
    "simplify": "gcnet.workflows.simplify",
    "train": "gcnet.workflows.train",
    "write_card": "gcnet.publishing.card",
    "build_block": "gcnet.blocks",
    "list_blocks": "gcnet.blocks",
    "create_model": "gcnet.models.create",
    "list_detectors": "gcnet.models.registry",
    "list_models": "gcnet.models.registry",
    "load_context": "gcnet.models.block_file",
    "save_context": "gcnet.models.block_file",
    "load_model": "gcnet.models.load",
    "save_model": "gcnet.models.model_file",
    "context_parameters": "gcnet.insertion",
    "fuse": "gcnet.insertion.fuse",
    "insert": "gcnet.insertion",
    "inserted": "gcnet.insertion",
    "remove": "gcnet.insertion",
}


def __getattr__(name: str) -> Any:
    if name == "analysis":
        return import_module("gcnet.analysis")
    if name not in _HOMES:
        raise AttributeError(f"module 'gcnet' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
