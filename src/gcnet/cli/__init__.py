"""The `gcnet` command line: dispatches to a command; errors are one sentence, with a documented exit code."""

import errno
import io
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

from gcnet.cli.interrupts import end_interrupts, handle_interrupts, interrupted_by
from gcnet.cli.synonyms import COMMAND_SYNONYMS
from gcnet.errors import (
    EXIT_RANK_FAILURE,
    Failure,
    RankFailure,
    UserError,
    first_to_report,
    nearest,
    out_of_memory,
    printable,
    unknown,
)
from gcnet.version import __version__

# The summaries are repeated from each module's SUMMARY, so that the list is printed without importing the modules.
COMMANDS = {
    "train": "train a model, or resume a run",
    "evaluate": "evaluate a trained model on labeled or annotated images",
    "predict": "predict the classes of images, or detect objects in them",
    "analyze": "visualize attention maps, and measure how query-dependent they are",
    "demo": "open a page on which a trained model, or two side by side, can be tried in a browser",
    "simplify": "replace query-independent non-local blocks by simpler blocks with their weights",
    "compare": "train the same model with different blocks, and report scores and costs",
    "cost": "count parameters, FLOPs and activations by stage and block; measure time and memory",
    "reproduce": "train the models of the paper's tables, or count their costs, with published values",
    "check-data": "find issues of a data set before training: COCO annotations, class folders or a CSV",
    "shard": "write labeled images as shards: tar files in the layout of WebDataset",
    "export": "export a model to ONNX, torch.export or OpenVINO, and compare its outputs with PyTorch's",
    "convert": "convert checkpoints of mmdet, timm and other libraries to model files, and back",
    "card": "write the model card of a trained model: README.md with metrics, cost and a picture of attention",
    "push": "push a trained model with its card to the Hugging Face Hub",
    "sample-data": "write a small generated data set to try the commands on",
    "models": "list models with parameters and FLOPs, and published checkpoints",
    "blocks": "list blocks with parts, parameters and options",
}

# Commands that run in all processes of torchrun; the others run in the first one only.
PARALLEL = ("train", "evaluate", "predict", "analyze", "compare", "reproduce")

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NON_FINITE = 3
EXIT_HANGUP = 129
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

EXIT_CODES = {
    EXIT_OK: "success",
    EXIT_FAILURE: "failure, such as a full disk; or check-data found issues",
    EXIT_USAGE: "usage error",
    EXIT_NON_FINITE: "training stopped at a loss that is not finite",
    EXIT_RANK_FAILURE: "another process of torchrun failed, was killed or stopped responding",
    EXIT_HANGUP: "ended by SIGHUP, such as a closed terminal (training saved a checkpoint)",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C (training saved a checkpoint)",
    EXIT_TERMINATED: "terminated by SIGTERM (training saved a checkpoint)",
}

_TRAINING = ("train", "compare", "reproduce")
_MEANINGS = {
    "check-data": {EXIT_FAILURE: "issues found; or failure, such as a full disk"},
    "predict": {EXIT_FAILURE: "no image could be read; or failure, such as a full disk"},
    "analyze": {EXIT_FAILURE: "no image could be read; or failure, such as a full disk"},
    "export": {EXIT_FAILURE: "outputs differ too much from PyTorch's; or failure, such as a full disk"},
    "demo": {
        EXIT_OK: "stopped by Ctrl-C or another signal",
        EXIT_HANGUP: "ended by SIGHUP before the page was ready",
        EXIT_INTERRUPTED: "interrupted by Ctrl-C before the page was ready",
        EXIT_TERMINATED: "terminated by SIGTERM before the page was ready",
    },
    "simplify": {EXIT_FAILURE: "no block could be replaced; or failure, such as a full disk"},
}

# Errors of the system rather than of usage: full disks, limits on files and processes, failing hardware.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO, errno.EROFS)
_PATIENCE = 5.0  # seconds for the message of another process
_SAVING_MEMORY = ("batch_size", "grad_accumulation", "image_size", "min_size", "precision", "jobs", "workers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line (default: those of the process).

    Returns:
        The exit code.
    """
    is_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _prepare_standard_output()
    if is_process:
        handle_interrupts(in_first_process=_is_first_process())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = cast(Any, _show_warning)
            code = _dispatch(arguments)
    except KeyboardInterrupt:
        code = _report_interrupt()
    except Exception as error:
        # Libraries, such as NumPy within its import, make other errors of an interrupt.
        code = _report_interrupt() if interrupted_by() else _report_error(error, arguments)
    if is_process:
        # An interrupt that left exec(), which dataclasses call, makes `python -m` end by SIGINT; another undoes it.
        with suppress(MemoryError):
            exec("")
        end_interrupts()
    failure = _output_failure()
    return code if failure is None or code != EXIT_OK else _report_output(failure)


def _named_as_flags(message: str, arguments: Sequence[str]) -> str:
    """The message with the flags of the command in the place of arguments, which it has in backticks."""
    if "`" not in message:
        return message
    from gcnet.arguments import arguments_of
    from gcnet.cli.wording import with_flags

    known = arguments[:1] and arguments[0] in COMMANDS
    return with_flags(message, arguments_of(_module(arguments[0]).Settings) if known else ())


def _module(command: str) -> Any:
    return import_module(f"gcnet.cli.{command.replace('-', '_')}")


def _prepare_standard_output() -> None:
    """Replace a closed standard output by os.devnull, and escape characters outside of its encoding."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it lives as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _report_error(error: Exception, arguments: Sequence[str]) -> int:
    """Report a usage error or failure, missing memory, or a file that cannot be used; any other is raised again."""
    if isinstance(error, UserError):
        return _report_user_error(error, arguments)
    missing = out_of_memory(error)
    if missing is not None:
        # Libraries need the same memory with all flags, and the settings need libraries.
        flags = "" if isinstance(error, ImportError) else ", ".join(_flags_that_save_memory(arguments[0]))
        return _report(missing + (f"; less is needed with other {flags}" if flags else ""), EXIT_FAILURE)
    if isinstance(error, OSError):
        return _report_os_error(error)
    if isinstance(error, RuntimeError) and "operator torchvision::" in str(error):  # torchvision drops the reason
        sentence = "torchvision cannot load its operators: it needs another version of torch, or memory is missing"
        return _report(sentence, EXIT_FAILURE)
    raise error


def _flags_that_save_memory(command: str) -> list[str]:
    """Flags of a command that reduce its memory."""
    from gcnet.arguments import arguments_of
    from gcnet.cli.parser import flag_of

    flags = {argument.name: flag_of(argument) for argument in arguments_of(_module(command).Settings)}
    return [flags[name] for name in _SAVING_MEMORY if name in flags]


def _report_os_error(error: OSError) -> int:
    """Report a file that cannot be used, standard output included; any other error is raised again."""
    if error.filename is not None:
        return _report(f"{error.filename}: {error.strerror}", EXIT_FAILURE)
    # The error does not name its stream, and what could not be written may be gone: a line break shows which it is.
    failure = _output_failure("\n")
    if failure is not None:
        return _report_output(failure)
    if error.errno not in _REFUSED:
        raise error
    return _report(f"the system refused a file or process: {error.strerror or error}", EXIT_FAILURE)


def _output_failure(text: str = "") -> OSError | None:
    """Why standard output cannot be written, or None; its buffer is then discarded."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from gcnet.storage import discard_standard_output

        discard_standard_output()
        return error
    return None


def _report_output(error: OSError) -> int:
    """Report a failing standard output; nothing where its reader, such as `head`, has gone."""
    if isinstance(error, BrokenPipeError):
        return EXIT_FAILURE
    return _report(f"cannot write to standard output: {error.strerror}", EXIT_FAILURE)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"] or (arguments[:1] in (["-h"], ["--help"]) and arguments[1:2]):
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        return _print_once(_help)
    first, rest = arguments[0], arguments[1:]
    if first in ("-V", "--version"):
        return _print_once(lambda: f"gcnet {__version__}")
    _check_command(first)
    if first not in PARALLEL and not _is_first_process():
        return EXIT_OK
    return _run(first, rest)


def _print_once(text: Callable[[], str]) -> int:
    """Print a text in the first process only."""
    if _is_first_process():
        print(text())
    return EXIT_OK


def _check_command(name: str) -> None:
    if name.startswith("-"):
        proposal = nearest(name.lstrip("-"), ("help", "version")).replace('"', '"--', 1)
        raise UserError(f'unknown flag "{name}"{proposal or "; a command comes first"}').in_all_processes()
    if name not in COMMANDS:
        raise _unknown_command(name).in_all_processes()


def _is_first_process() -> bool:
    """Whether this is the only process or the first of those that torchrun started; without torch, which is slow."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _unknown_command(name: str) -> UserError:
    if name in COMMAND_SYNONYMS:
        same = COMMAND_SYNONYMS[name]
        shown = f"gcnet {same}" if same.split()[0] in COMMANDS or same.startswith("--") else same
        return UserError(f'unknown command "{name}"; did you mean "{shown}"?')
    if "=" in name:
        return UserError(f'unknown command "{name}"; a command comes first, and flags are given as --data photos')
    return unknown("command", name, COMMANDS)


def _run(command: str, arguments: list[str]) -> int:
    module = _module(command)
    from gcnet.arguments import arguments_of
    from gcnet.cli.arguments import asks_help, parse
    from gcnet.cli.files import check_outputs
    from gcnet.cli.log_output import printed_messages

    program, codes = f"gcnet {command}", _exit_codes(exit_codes(command))
    if asks_help(arguments) and not _is_first_process():
        return EXIT_OK
    try:
        settings = parse(module.Settings, arguments, program=program, epilogue=codes)
    except UserError as error:
        error.in_all_processes()
        raise
    if settings is None:
        return EXIT_OK
    if _is_first_process():  # several would take each other's trial for a folder that exists
        check_outputs(settings, command)
    with printed_messages(list(arguments_of(module.Settings))):
        return module.run(settings)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command:{width}}  {summary}" for command, summary in COMMANDS.items())
    return (
        "usage: gcnet COMMAND [options]\n\nGlobal context blocks for vision networks.\n\n"
        f"commands (gcnet COMMAND --help shows the usual options, --help-all all of them):\n{commands}\n\n"
        f"options:\n  -h, --help  show this help\n  --version   show the version\n\n{_exit_codes(EXIT_CODES)}"
    )


def exit_codes(command: str) -> dict[int, str]:
    """Return the meaning of each exit code of a `command`."""
    if command in _TRAINING:
        return EXIT_CODES | {EXIT_FAILURE: "failure, such as a full disk"}
    others = (EXIT_NON_FINITE, *(() if command in PARALLEL else (EXIT_RANK_FAILURE,)))
    codes = {code: meaning.partition(" (training")[0] for code, meaning in EXIT_CODES.items() if code not in others}
    return codes | {EXIT_FAILURE: "failure, such as a full disk"} | _MEANINGS.get(command, {})


def _exit_codes(codes: Mapping[int, str]) -> str:
    return "exit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in codes.items())


def _report_user_error(error: UserError, arguments: Sequence[str]) -> int:
    """Report a usage error or failure, unless another process does; returns the exit code."""
    code, sentence = _exit_code(error), _named_as_flags(str(error), arguments)
    if error.reported is None:
        return _report_once(sentence, code, common=error.common)
    if not error.reported:
        return _report(sentence, code)
    _tell_torchrun(sentence)
    return code


def _report_once(sentence: str, code: int, *, common: bool) -> int:
    """Report what several processes of torchrun may report, in the first of this machine."""
    if first_to_report(common=common):
        return _report(sentence, code)
    _tell_torchrun(sentence)
    time.sleep(_PATIENCE)  # torchrun ends all processes of a machine when one ends: the one that prints comes first
    return code


def _report_interrupt() -> int:
    """Report the signal that interrupted the command, and return its exit code.

    SIGTERM may come from torchrun, after another process has failed: its report is the one that counts.
    """
    number = interrupted_by() or signal.SIGINT
    if number == signal.SIGINT:
        return _report_once("interrupted", EXIT_INTERRUPTED, common=False)
    if first_to_report(common=False):
        _report(f"interrupted by {signal.Signals(number).name}", 128 + number)
    return 128 + number


def _exit_code(error: UserError) -> int:
    if isinstance(error, RankFailure):
        return EXIT_RANK_FAILURE
    mistyped = isinstance(error.__cause__, FileNotFoundError)
    return EXIT_FAILURE if isinstance(error, Failure) and not mistyped else EXIT_USAGE


def _report(sentence: str, code: int) -> int:
    with suppress(OSError):
        print(f"gcnet: {printable(sentence)}", file=sys.stderr)
    _tell_torchrun(sentence)
    return code


def _tell_torchrun(sentence: str) -> None:
    """Write why this process ends to the file from which torchrun takes it for its summary."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is not None:
        with suppress(OSError):
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                json.dump({"message": printable(sentence), "timestamp": int(time.time())}, file)
            os.replace(f"{path}.new", path)  # torchrun may end this process at any time


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    with suppress(OSError):
        print(f"gcnet: warning: {printable(str(message))}", file=sys.stderr)
