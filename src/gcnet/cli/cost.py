"""`gcnet cost`: costs of networks in total, by stage and by context block, relative to others on request."""

from gcnet.costs.cost import CostSettings

SUMMARY = "count parameters, FLOPs and activations by stage and block; measure time and memory"

Settings = CostSettings


def run(settings: CostSettings) -> int:
    """Print the tables, and write the files of --output.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.cli.files import report_written
    from gcnet.costs.cost import count_costs

    costs = count_costs(settings)
    print(costs)
    if settings.output is not None:
        report_written(costs.write(settings.output), settings.output)
    return 0
