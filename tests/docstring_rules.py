"""Rules for Google docstrings of public functions, methods and classes, checked on the syntax tree.

Public means: no leading underscore in the name or in the path of the module, outside `cli/`. The rules:

* Everything public has a docstring; the first paragraph is a summary that ends with a period.
* Functions of two or more parameters, and classes whose constructor takes any, name each parameter under `Args:` (a
  dataclass its fields, under `Attributes:` too, or in a string below the field). A function of one parameter names it
  there or in backticks.
* A function with a result has `Returns:` or `Yields:`, or a summary that begins with Return, Yield or Whether.
* A function that raises an exception itself has `Raises:`.
* Tensors have a shape: in the annotation (jaxtyping) or in the docstring, such as (N, C, H, W).

A method that implements one of a base class inherits its docstring.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Methods of PyTorch, torchvision and Python interfaces; the class documents what is its own.
_INHERITED = frozenset(
    {
        *("forward", "extra_repr", "reset_parameters", "train", "state_dict", "load_state_dict", "set_epoch"),
        *("setup_context", "backward", "jvp", "decode_single", "generate_anchors", "postprocess_detections"),
        *("normalize", "resize", "postprocess", "write", "flush", "readline", "emit", "put_down"),
    }
)
_SECTIONS = re.compile(r"^\s*(Args|Attributes|Returns|Yields|Raises|Example|Examples|Reference|References|Note):\s*$")
_ENTRY = re.compile(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: ")
_SHAPE = re.compile(r"\(\s*\)|\([^()]*,[^()]*\)")
_TENSOR = re.compile(r"(?<![\w\[])(?:torch\.)?Tensor\b")
_JAXTYPING = re.compile(r"(?:Float|Int|Int64|Bool|UInt8|Shaped|Num|Complex)\[[^\]]*\]")
_MAPPING = re.compile(r"(?:Mapping|MutableMapping|dict)\[str, (?:torch\.)?Tensor\]")
_GENERATED = frozenset({"plain_arguments"})  # decorators that write the docstring's Args themselves
_RESULT_WORDS = ("Return", "Yield", "Whether")


@dataclass(frozen=True)
class Docstring:
    """A docstring cut into its summary and sections."""

    text: str

    @property
    def summary(self) -> str:
        return self.text.split("\n\n", 1)[0].strip()

    def section(self, *names: str) -> list[str]:
        """Return the lines of a section, indented by four."""
        lines, inside = [], False
        for line in self.text.splitlines():
            heading = _SECTIONS.match(line)
            if heading and not line.startswith(" "):
                inside = heading[1] in names
            elif inside:
                lines.append(line)
        return lines

    def entries(self) -> list[str]:
        """Return the parameters named under Args or Attributes."""
        matches = (_ENTRY.match(line) for line in self.section("Args", "Attributes"))
        return [name.strip().lstrip("*") for match in matches if match for name in match[1].split(",")]


def violations(path: Path, module: str) -> list[str]:
    """Return what the public definitions of a file lack, a line each.

    Args:
        path: a Python file.
        module: its dotted name, for the lines.
    """
    tree = ast.parse(path.read_text())
    found = []
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            found += [f"{module}.{node.name}: {problem}" for problem in _function_problems(node)]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [f"{module}.{node.name}: {problem}" for problem in _class_problems(node)]
            found += [f"{module}.{name}: {problem}" for name, problem in _method_problems(node)]
    return found


def _method_problems(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item in node.body:
        if not isinstance(item, Function) or item.name.startswith("_"):
            continue
        has_own_bases = bool(node.bases)
        if has_own_bases and ast.get_docstring(item) is None and (item.name in _INHERITED or _overrides(node)):
            continue
        for problem in _function_problems(item, is_method=True):
            yield f"{node.name}.{item.name}", problem


def _overrides(node: ast.ClassDef) -> bool:
    """Whether all bases are classes that document their methods, so that an override inherits a docstring."""
    names = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
    return bool(names) and names.isdisjoint({"Module", "Protocol", "NamedTuple", "ABC", "object", "Generic"})


def _class_problems(node: ast.ClassDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    if not text:
        yield "no docstring"
        return
    doc = Docstring(text)
    yield from _summary_problems(doc)
    documented = set(doc.entries())
    constructor = next((item for item in node.body if isinstance(item, Function) and item.name == "__init__"), None)
    if constructor is not None:
        own = ast.get_docstring(constructor)
        documented |= set(Docstring(own).entries()) if own else set()
        wanted = _parameters(constructor, is_method=True)
    elif _is_record(node):
        wanted, described = _fields(node)
        documented |= described
    else:
        wanted = []
    missing = [name for name in wanted if name not in documented]
    if missing:
        yield f"Args lacks {', '.join(missing)}"
    extra = sorted(set(doc.entries()) - set(wanted) - _attributes(node))
    if extra and wanted:
        yield f"Args names {', '.join(extra)}, which it does not take"
    arguments = [] if constructor is None else _arguments(constructor)
    yield from _shape_problems(arguments, text + (ast.get_docstring(constructor) or "" if constructor else ""))


def _is_record(node: ast.ClassDef) -> bool:
    decorators = {ast.unparse(item).partition("(")[0] for item in node.decorator_list}
    return "dataclass" in decorators or any(ast.unparse(base) == "NamedTuple" for base in node.bases)


def _fields(node: ast.ClassDef) -> tuple[list[str], set[str]]:
    """Public fields, and those with a string below."""
    names, described = [], set()
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name = item.target.id
            if name.startswith("_") or "ClassVar" in ast.unparse(item.annotation):
                continue
            names.append(name)
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if is_text or "internal" in ast.unparse(item).lower():
                described.add(name)
    return names, described


def _attributes(node: ast.ClassDef) -> set[str]:
    properties = {item.name for item in node.body if isinstance(item, Function)}
    annotated = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assigned = {
        sub.attr
        for item in node.body
        for sub in ast.walk(item)
        if isinstance(sub, ast.Attribute) and ast.unparse(sub.value) == "self"
    }
    return properties | annotated | assigned


def _function_problems(node: Function, *, is_method: bool = False) -> Iterator[str]:
    text = ast.get_docstring(node)
    if not text:
        yield "no docstring"
        return
    decorators = {ast.unparse(item).partition("(")[0].rpartition(".")[2] for item in node.decorator_list}
    if "overload" in decorators:
        return
    doc = Docstring(text)
    yield from _summary_problems(doc)
    is_property = bool(decorators & {"property", "cached_property", "setter"})
    wanted = _parameters(node, is_method=is_method and "staticmethod" not in decorators)
    if not decorators & _GENERATED:
        yield from _argument_problems(doc, wanted)
    result = "" if node.returns is None else ast.unparse(node.returns)
    if result not in ("", "None", "NoReturn") and not is_property:
        is_manager = "contextmanager" in decorators and result in (
            "Generator[None]",
            "Generator[None, None, None]",
            "Iterator[None]",
        )
        if not is_manager and not doc.section("Returns", "Yields") and not doc.summary.startswith(_RESULT_WORDS):
            yield "no Returns, and the summary does not begin with Return"
    if _raises(node) and not doc.section("Raises"):
        yield "no Raises"
    yield from _shape_problems(_arguments(node), text)


def _summary_problems(doc: Docstring) -> Iterator[str]:
    if not re.search(r"[.:)`\"]$", doc.summary):
        yield "the summary does not end with a period"


def _argument_problems(doc: Docstring, wanted: list[str]) -> Iterator[str]:
    documented = doc.entries()
    if len(wanted) >= 2 or documented:
        missing = [name for name in wanted if name not in documented]
        if missing:
            yield f"Args lacks {', '.join(missing)}"
        extra = [name for name in documented if name not in wanted]
        if extra:
            yield f"Args names {', '.join(extra)}, which it does not take"
    elif wanted and f"`{wanted[0]}" not in doc.text and f" {wanted[0]}" not in doc.text.replace("_", " "):
        yield f"{wanted[0]} is described neither in Args nor in the text"


def _arguments(node: Function) -> list[ast.arg]:
    every = node.args
    return [*every.posonlyargs, *every.args, *every.kwonlyargs]


def _parameters(node: Function, *, is_method: bool) -> list[str]:
    names = [item.arg for item in _arguments(node)]
    names = names[1:] if is_method else names
    names += [item.arg for item in (node.args.vararg, node.args.kwarg) if item is not None]
    return [name for name in names if not name.startswith("_")]


def _raises(node: Function) -> bool:
    """Whether the function itself raises an exception of a public type."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        item = waiting.pop()
        if isinstance(item, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(item, ast.Raise) and item.exc is not None:
            name = ast.unparse(item.exc).partition("(")[0]
            if not name.startswith("AssertionError") and not re.fullmatch(r"_[A-Z]\w*", name):
                return True
        waiting.extend(ast.iter_child_nodes(item))
    return False


def _shape_problems(arguments: list[ast.arg], text: str) -> Iterator[str]:
    for argument in arguments:
        annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
        plain = _MAPPING.sub("", _JAXTYPING.sub("", annotation.replace("'", "")))
        if _TENSOR.search(plain) and "Callable" not in plain and not _SHAPE.search(text):
            yield f"{argument.arg} is a tensor without a shape"
