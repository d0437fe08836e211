"""`gcnet card`: writes the model card of a trained model."""

from gcnet.publishing.settings import CardSettings

SUMMARY = "write the model card of a trained model: README.md with metrics, cost and a picture of attention"

Settings = CardSettings


def run(settings: CardSettings) -> int:
    """Write the card, and print the names of its files.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.cli.files import report_written
    from gcnet.publishing.card import run_card

    report_written([file.name for file in run_card(settings)], settings.output)
    return 0
