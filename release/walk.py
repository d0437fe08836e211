"""`python -m release.walk`: the first steps of a new user, timed, from installing the wheel to a model card."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from gcnet.cli.arguments import parse
from gcnet.errors import Failure, UserError
from release.environments import borrow_packages, borrow_some, create_environment, user_variables
from release.package import Package, build_package

ROOT = Path(__file__).parents[1]
_MILLISECONDS = 300_000  # for the page, on a busy machine
_WITHOUT_TORCH = ("numpy", "onnxruntime", "pillow", "flatbuffers", "protobuf", "packaging")
_PREDICTION = """
import gcnet

predictor = gcnet.load("runs/first")
(image,) = predictor("{photo}").images
print(image.classes[0][0])
"""


@dataclass(frozen=True)
class WalkSettings:
    """Walk the first steps of a new user and print the time of each.

    Examples:
      python -m release.walk
      python -m release.walk --full --output walk
    """

    full: bool = False
    """Install all dependencies in empty environments (6 GB), instead of borrowing those of the present one."""
    output: Path | None = None
    """Existing folder for screenshot.png of the page."""

    def __post_init__(self) -> None:
        """Check the folder."""
        if self.output is not None and not self.output.is_dir():
            raise UserError(f"`output` must be an existing folder, found {self.output}")


@dataclass
class Walk:
    """The steps of a new user in an empty folder.

    Attributes:
        folder: an empty folder.
        package: the built files.
        full: install all dependencies.
        seconds: duration of each step by its name.
    """

    folder: Path
    package: Package
    full: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name the folders."""
        self.user = self.folder / "user"
        self.user.mkdir()
        self.environment = create_environment(self.folder / "environment")

    def install(self) -> None:
        """Install the wheel, with the extras for exporting and for the page."""
        if self.full:
            self.environment.install(f"{self.package.wheel}[export,demo]")
            return
        borrow_packages(self.environment)
        self.environment.install(str(self.package.wheel), options=("--no-deps", "--no-index"))

    def train(self) -> None:
        """Write sample photos and train a small network on them."""
        self._gcnet("sample-data", "photos", "--output", "photos")
        network = ("--model", "gc_scenes_resnet", "--epochs", "2")
        self._gcnet("train", *network, "--data", "photos", "--output", "runs/first")

    def predict(self) -> str:
        """Predict a photo in a new Python process.

        Returns:
            The most probable class.
        """
        code = _PREDICTION.format(photo=self.photo)
        return self.environment.run("-c", code, folder=self.user).strip()

    def run_without_torch(self) -> str:
        """Export the network to ONNX, and classify the photo in an environment without torch.

        Returns:
            The most probable class.

        Raises:
            Failure: torch can be imported there.
        """
        self._gcnet("export", "runs/first", "--output", "first.onnx")
        service = create_environment(self.folder / "service")
        if self.full:
            service.install("numpy", "onnxruntime", "pillow")
        else:
            borrow_some(service, self.folder / "libraries", _WITHOUT_TORCH)
        found = service.run("-c", "from importlib.util import find_spec; print(find_spec('torch'))", folder=self.user)
        if found.strip() != "None":
            raise Failure(f"the environment without torch has {found.strip()}")
        script = ROOT / "docs" / "onnx_classify.py"
        line = service.run("-W", "error", script, "first.onnx", self.photo, folder=self.user)
        return line.rpartition(f"{self.photo}: ")[2].split(",")[0].rpartition(" ")[0]

    def show_page(self, screenshot: Path) -> str:
        """Open the page in a browser, upload the photo and wait for the prediction.

        Args:
            screenshot: PNG file to write.

        Returns:
            The most probable class.

        Raises:
            Failure: there is no Chromium.
        """
        from playwright.sync_api import sync_playwright

        chromium = which("chromium")
        if chromium is None:
            raise Failure("the page needs Chromium: apt-get install chromium")
        with self._served() as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=_MILLISECONDS)
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(_MILLISECONDS)
            page.goto(address)
            page.locator("input[type=file]").first.set_input_files(self.user / self.photo)
            table = page.locator(".gc-prediction table").first
            table.wait_for()
            label = table.locator("tr").nth(1).locator("td").first.inner_text().strip()
            page.screenshot(path=screenshot)
            browser.close()
        return label

    def write_card(self) -> str:
        """Evaluate the network and write its model card.

        Returns:
            The card in Markdown.
        """
        self._gcnet("evaluate", "runs/first", "--data", "photos", "--output", "evaluation")
        self._gcnet("card", "runs/first", "--results", "evaluation/results.json", "--output", "card")
        return (self.user / "card" / "README.md").read_text(encoding="utf-8")

    @property
    def photo(self) -> str:
        """Path of a validation photo in the folder of the user."""
        return str(min((self.user / "photos" / "val").rglob("*.*")).relative_to(self.user))

    def timed(self, name: str, step: Callable[[], str | None]) -> str:
        """Run a step, and print and keep its duration.

        Args:
            name: of the step.
            step: without arguments.

        Returns:
            The result of the step; empty for None.
        """
        began = time.monotonic()
        result = step() or ""
        self.seconds[name] = time.monotonic() - began
        print(f"{self.seconds[name]:7.1f} s  {name}", flush=True)
        return result

    def _gcnet(self, *arguments: str) -> str:
        return self.environment.run("gcnet", *arguments, folder=self.user)

    @contextmanager
    def _served(self) -> Generator[str]:
        """Address of the running page."""
        command = [str(self.environment.path / "bin" / "gcnet"), "demo", "runs/first", "--port", "0"]
        variables = user_variables() | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=self.user, env=variables, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield _address(server)
            finally:
                server.terminate()


def _address(server: subprocess.Popen[str]) -> str:
    """The address that the server prints once it answers."""
    for line in server.stdout or ():
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise Failure(f"gcnet demo ended with {server.wait()}")


def walk(settings: WalkSettings, folder: Path) -> Walk:
    """Walk all steps in a folder.

    Args:
        settings: of the command.
        folder: an empty folder.

    Returns:
        The walk, with the duration of each step.

    Raises:
        Failure: a step fails, or the ONNX file gives another class than the network.
    """
    (folder / "files").mkdir()
    steps = Walk(folder, build_package(ROOT, folder / "files"), settings.full)
    steps.timed("install the wheel", steps.install)
    steps.timed("train a network on sample photos", steps.train)
    label = steps.timed("predict a photo in Python", steps.predict)
    other = steps.timed("export to ONNX, and predict without torch", steps.run_without_torch)
    if other != label:
        raise Failure(f"the network predicts {label}, and the ONNX file {other}")
    screenshot = (settings.output or folder) / "screenshot.png"
    shown = steps.timed("predict the photo on the page, in a browser", lambda: steps.show_page(screenshot))
    if shown != label:
        raise Failure(f"the network predicts {label}, and the page shows {shown}")
    card = steps.timed("evaluate, and write a model card", steps.write_card)
    if "scenes_resnet + gc" not in card:
        raise Failure("the model card does not name the network")
    print(f"{sum(steps.seconds.values()):7.1f} s  in all")
    return steps


def main() -> int:
    """Run the command line; return the exit code: 1 if a step fails, 2 for a usage error."""
    try:
        settings = parse(WalkSettings, sys.argv[1:], program="python -m release.walk", epilogue="See docs/walk.md.")
        if settings is not None:
            with tempfile.TemporaryDirectory(prefix="gcnet-walk-") as folder:
                walk(settings, Path(folder))
    except (UserError, Failure) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
