"""`gcnet evaluate`: evaluates a trained network on labeled or annotated images."""

from gcnet.tasks.settings import EvaluateSettings

SUMMARY = "evaluate a trained model on labeled or annotated images"

Settings = EvaluateSettings


def run(settings: EvaluateSettings) -> int:
    """Evaluate, print the result and write the files of --output.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.cli.files import report_skipped, report_written
    from gcnet.devices import is_first_process
    from gcnet.workflows.evaluate import run_evaluation

    result = run_evaluation(settings)
    if is_first_process():
        report_skipped(result.skipped)
        print(result)
        if settings.output is not None:
            report_written(result.write(settings.output), settings.output)
    return 0
