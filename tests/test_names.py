"""Public names have one meaning in the package, and messages name arguments that exist."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import gcnet
from gcnet.blocks import BLOCKS, block_options
from gcnet.models.detector.mask_rcnn import build_mask_rcnn

SOURCE = Path(__file__).parents[1] / "src" / "gcnet"
MODULES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

INTERFACES = {
    "Settings": "the settings of a command, in its file of cli/",
    "SUMMARY": "the line of a command in `gcnet --help`",
    "run": "runs a command",
    "main": "runs the command line; that of __main__ also handles Ctrl-C during imports",
    "SPECS": "the blocks of a file of blocks/",
    "SOURCES": "the weight sources of a file of checkpoints/",
    "evaluate": "evaluates a trained network, of any task or of one",
    "predict": "predicts images, for any task or for one",
    "attention_reader": "the method of that name of a task",
    "configured_predictor": "the method of that name of a task",
}
"""Names that several modules define on purpose, and the meaning that they share."""

COMMANDS_IN_MESSAGES = {
    "checkpoints/published_files.py": "gcnet models --published",
    "data/downloads.py": "gcnet models --published",
    "data/worker_supervision.py": "docker run --shm-size",
    "renamed.py": "old flags",
    "tasks/detection/convert_labels.py": "gcnet train with the converted files",
    "visualization/style.py": "a variable of CSS",
}
"""Files with messages that show a whole command, or dashes of other kinds."""

OTHER_NAMES = {"context": "a child module", "pretrained": "an argument of other libraries"}
"""Names in backticks in messages that are no arguments."""


def _definitions(module: ast.Module) -> Iterator[str]:
    """Names of the classes, functions and variables of a module."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_public_name_is_defined_in_one_module() -> None:
    modules: dict[str, set[str]] = defaultdict(set)
    for path, module in MODULES.items():
        for name in _definitions(module):
            if not name.startswith("_"):
                modules[name].add(path)
    repeated = {name: sorted(paths) for name, paths in modules.items() if len(paths) > 1}
    assert {name: paths for name, paths in repeated.items() if name not in INTERFACES} == {}
    assert INTERFACES.keys() <= repeated.keys(), "a name that is not repeated any more"


def _public_arguments() -> set[str]:
    """Arguments of the functions of `gcnet`, options of blocks, and options of detectors."""
    functions = [function for name in gcnet.__all__ if inspect.isfunction(function := getattr(gcnet, name))]
    options = {option for block in BLOCKS for option in block_options(block)}
    return options.union(*(inspect.signature(function).parameters for function in (*functions, build_mask_rcnn)))


def _messages(module: ast.Module) -> Iterator[str]:
    """Strings of a module that are not docstrings."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def _own_arguments(module: ast.Module) -> set[str]:
    """Parameters of the functions and fields of the classes of a module."""
    parameters = {node.arg for node in ast.walk(module) if isinstance(node, ast.arg)}
    fields = (node.target for node in ast.walk(module) if isinstance(node, ast.AnnAssign))
    return parameters | {field.id for field in fields if isinstance(field, ast.Name)}


def test_messages_name_arguments_that_exist() -> None:
    public = _public_arguments()
    assert {"batch_size", "folder", "heads", "min_size"} <= public
    unknown = {
        (path, name)
        for path, module in MODULES.items()
        for message in _messages(module)
        for name in re.findall(r"`([a-z][a-z0-9_]*)(?:=[^`]*)?`", message)
        if name not in public | _own_arguments(module) | OTHER_NAMES.keys()
    }
    assert unknown == set()


def test_messages_of_the_library_name_arguments_and_no_flags() -> None:
    flags = {
        (path, flag)
        for path, module in MODULES.items()
        if not path.startswith("cli/") and path not in COMMANDS_IN_MESSAGES
        for message in _messages(module)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", message)
    }
    assert flags == set()
