"""`gcnet export`: exports a trained network for other runtimes."""

from gcnet.exporters.settings import ExportSettings

SUMMARY = "export a model to ONNX, torch.export or OpenVINO, and compare its outputs with PyTorch's"

Settings = ExportSettings


def run(settings: ExportSettings) -> int:
    """Export the network, print the differences from PyTorch and write the file.

    Args:
        settings: of the command.

    Returns:
        The exit code, 0.
    """
    from gcnet.cli.files import report_skipped
    from gcnet.workflows.export import run_export

    exported = run_export(settings)
    report_skipped(exported.skipped)
    print(exported)
    return 0
