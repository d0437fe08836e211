"""Settings of `gcnet demo`."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError

MODELS = 2
"""Maximum number of models on a page."""
_LAST_PORT = 65_535


@dataclass(frozen=True)
class DemoSettings:
    """Open a page on which a trained model, or two side by side, can be tried in a browser.

    Classifies uploaded images or detects objects in them, and shows the attention of a clicked point in every block.
    The same works over HTTP. Ctrl-C stops the server. Requires the extra "demo": pip install "gcnet[demo]".

    Examples:
      gcnet demo runs/first
      gcnet demo runs/gc runs/nl --examples photos --port 8000
    """

    models: tuple[str, ...] = field(metadata=POSITIONAL)
    """One or two models: model file, run folder (its best weights are used), model on the Hugging Face Hub
    (hf://user/name), published checkpoint (`gcnet models --published` lists them), or a model name with `weights`."""
    weights: str | None = None
    """Weights for models given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    download: bool = False
    """Download a model on the Hub or published weights; nothing is downloaded otherwise."""
    examples: Path | None = None
    """Folder of example images, of which at most 12 are shown (default: generated scenes)."""
    host: str = "127.0.0.1"
    """Address to listen on; 127.0.0.1 is reached from this machine only, 0.0.0.0 from others, too."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    open: bool = False
    """Open the page in the default browser."""
    max_pixels: int = 25_000_000
    """Maximum pixels of an uploaded image, by its header."""
    max_bytes: int = 20_000_000
    """Maximum size of an uploaded file in bytes."""
    timeout: float = 60.0
    """Maximum time for an upload, and for a result, in seconds."""
    queue: int = 16
    """Maximum number of waiting requests; further ones are refused."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""
    threads: int | None = None
    """CPU threads of PyTorch (default: unchanged)."""

    def __post_init__(self) -> None:
        """Refuse invalid settings, before anything is loaded."""
        if not 1 <= len(self.models) <= MODELS:
            raise UserError(f"`models` takes one or two models, found {len(self.models)}")
        if len(set(self.models)) < len(self.models):
            raise UserError(f"`models` must be different models, found {self.models[0]} twice")
        if not 0 <= self.port <= _LAST_PORT:
            raise UserError(f"`port` must be 0 to {_LAST_PORT}, found {self.port}")
        for name in ("max_pixels", "max_bytes", "queue", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}")
        if not 0 < self.timeout < float("inf"):
            raise UserError(f"`timeout` must be a positive number of seconds, found {self.timeout}")
