"""Every code block of the README and of docs/ runs as it is written; blocks that cannot run say why."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from forked_programs import forking_process, run_python
from gcnet import cli
from gcnet.cli.arguments import parse

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INFO = re.compile(r'(python|sh)(?: needs="([^"]+)")?|text|json|toml|yaml|csv|bibtex|html|dockerfile')
INDENTED = re.compile(r"\n\n {4}(?![ *\d-])\S")


@dataclass(frozen=True)
class Block:
    """A fenced code block: language, reason not to run it, and code."""

    language: str
    needs: str
    code: str


def blocks_of(page: str) -> Iterator[Block]:
    for indent, info, code in FENCE.findall((ROOT / page).read_text()):
        match = INFO.fullmatch(info)
        assert match, f"{page}: ```{info}"
        yield Block(match[1] or "", match[2] or "", re.sub(f"^{indent}", "", code, flags=re.MULTILINE))


BLOCKS = {page: list(blocks_of(page)) for page in PAGES}
RUN = [page for page, blocks in BLOCKS.items() if any(block.language and not block.needs for block in blocks)]
SKIPPED = [(page, block) for page, blocks in BLOCKS.items() for block in blocks if block.needs]


@pytest.mark.parametrize("page", PAGES)
def test_code_is_in_fenced_blocks_with_a_language(page: str) -> None:
    outside = FENCE.sub("", (ROOT / page).read_text())
    assert INDENTED.findall(outside) == []


def test_the_number_of_blocks_that_are_not_run_is_known() -> None:
    assert len(SKIPPED) == 64


@pytest.mark.parametrize(("page", "block"), [(page, block) for page, block in SKIPPED if block.language == "sh"])
def test_shell_blocks_that_are_not_run_have_valid_syntax(page: str, block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_yaml_blocks_have_valid_syntax(page: str) -> None:
    for _, info, code in FENCE.findall((ROOT / page).read_text()):
        if info == "yaml":
            assert all(isinstance(document, dict | list) for document in yaml.safe_load_all(code))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_one_after_the_other_in_an_empty_folder(
    page: str, tmp_path: Path, forking: Path
) -> None:
    """Those of the README in processes of their own, the others in processes that are forked with the imports done."""
    programs = [Path(sys.executable).parent] if page == "README.md" else [forking, Path(sys.executable).parent]
    environment = os.environ | {"PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]])}
    for block in BLOCKS[page]:
        if block.needs or not block.language:
            continue
        if block.language == "python" and page != "README.md":
            code, printed = run_python(forking, block.code, cwd=tmp_path, env=environment)
        else:
            code, printed = run_block(block, tmp_path, environment)
        assert code == 0, f"{block.code}\n{printed[-4000:]}"


@pytest.fixture(scope="module")
def forking() -> Iterator[Path]:
    with forking_process() as folder:
        yield folder


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a block in a new process, and return the exit code and what was printed."""
    if block.language == "python":
        command = [sys.executable, "-W", "error", "-c", block.code]
    else:
        code = re.sub(r"^make ", f"make -C {shlex.quote(str(ROOT))} --dry-run ", block.code, flags=re.MULTILINE)
        command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    return done.returncode, done.stdout


def commands_of(code: str) -> list[list[str]]:
    lines = code.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(.*\btorchrun .* -m )?gcnet ", line)]


def check_command(words: list[str]) -> None:
    """Parse a command of gcnet, behind torchrun or not."""
    if "torchrun" in words:
        options = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert (options.module, options.training_script) == (True, "gcnet")
        command, *arguments = options.training_script_args
    else:
        command, *arguments = words[words.index("gcnet") + 1 :]
    assert command in cli.COMMANDS
    settings = import_module(f"gcnet.cli.{command.replace('-', '_')}").Settings
    assert parse(settings, arguments, program=f"gcnet {command}", epilogue="") is not None


@pytest.mark.parametrize("block", [block for _, block in SKIPPED])
def test_commands_of_blocks_that_are_not_run_are_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for words in commands_of(block.code):
        check_command(words)


def test_commands_of_slurm_and_kubernetes_are_valid() -> None:
    code = {block.needs: block.code for block in BLOCKS["docs/scale.md"] if block.language == "sh"}
    (words,) = commands_of(code["Slurm"])
    assert words[0] == "srun" and "--model" in words  # the default network is for small images
    documents = [code for _, info, code in FENCE.findall((ROOT / "docs/scale.md").read_text()) if info == "yaml"]
    service, job = (document for code in documents for document in yaml.safe_load_all(code))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    names = {
        service["metadata"]["name"],
        job["metadata"]["name"],
        pod["subdomain"],
        *service["spec"]["selector"].values(),
    }
    assert len(names) == 1  # hosts are called JOB-INDEX.SUBDOMAIN
    command = [*container["command"], *container["args"]]
    assert all(isinstance(word, str) for word in command)
    assert f"--rdzv-endpoint={names.pop()}-0.{pod['subdomain']}:29500" in command
    check_command(command)
