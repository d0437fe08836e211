"""`gcnet predict`: predicts classes or objects for images, as a table, JSON, CSV and pictures."""

from gcnet.tasks.settings import PredictSettings

SUMMARY = "predict the classes of images, or detect objects in them"

Settings = PredictSettings


def run(settings: PredictSettings) -> int:
    """Predict, print the predictions and write the files.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0 if at least one image could be read, else 1.
    """
    import sys

    from gcnet.cli.files import report_counts, report_skipped
    from gcnet.devices import is_first_process
    from gcnet.workflows.predict import PredictionFile, run_prediction, write_tables

    predictions = run_prediction(settings)
    if not is_first_process():
        return 0 if predictions.images else 1
    if isinstance(predictions, PredictionFile):
        report_counts(predictions.images, predictions.skipped, "processed")
        print(predictions)
        return 0 if predictions.images else 1
    if settings.json != "-" and predictions.images:
        print(predictions)
    report_skipped(predictions.skipped)
    report_counts(len(predictions.images), len(predictions.skipped), "processed")
    write_tables(predictions, settings)
    if predictions.figures:
        print(predictions.figures, file=sys.stderr)
    return 0 if predictions.images else 1
