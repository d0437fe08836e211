"""`gcnet demo`: opens a page on which trained models can be tried in a browser."""

from importlib.util import find_spec

from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError

SUMMARY = "open a page on which a trained model, or two side by side, can be tried in a browser"

Settings = DemoSettings


def run(settings: DemoSettings) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.

    Raises:
        UserError: Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise UserError('gcnet demo requires Gradio: pip install "gcnet[demo]"')
    from gcnet.demo.server import serve

    serve(settings)
    return 0
