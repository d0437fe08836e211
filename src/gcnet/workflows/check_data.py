"""`gcnet.check_data`: finds the issues of a data set before training."""

from gcnet.arguments import plain_arguments
from gcnet.tasks.registry import refuse_settings_of_other_tasks, task_of_data
from gcnet.tasks.results import DataReport
from gcnet.tasks.settings import CheckDataSettings


def run_check(settings: CheckDataSettings) -> DataReport:
    """`check_data` of settings, without writing `output` and `fix`.

    Args:
        settings: of the check; with `convert`, the converted annotations are written.

    Returns:
        The report.

    Raises:
        UserError: as `check_data`.
    """
    task = task_of_data(settings)
    refuse_settings_of_other_tasks(settings, task, f"{settings.data} holds {task.data_noun}")
    return task.check_data(settings)


@plain_arguments(CheckDataSettings)
def check_data(settings: CheckDataSettings) -> DataReport:
    """Find the issues of a data set before training: COCO annotations, class folders or a CSV.

    Returns:
        The issues; `str()` gives a summary, `write(folder)` all of them as JSON with pictures.

    Raises:
        UserError: no such data, data of an unknown layout, or nothing would be left after fixing.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> for split in ("train", "val"):
        ...     for number, name in enumerate(("cat", "dog")):
        ...         Path("pets", split, name).mkdir(parents=True)
        ...         Image.new("RGB", (32, 32), (50 * number, len(split), 0)).save(f"pets/{split}/{name}/1.png")
        >>> gcnet.check_data("pets").has_issues
        False
    """
    report = run_check(settings)
    if settings.output is not None:
        report.write(settings.output)
    if settings.fix is not None:
        report.write_fixed(settings.fix)
    return report
