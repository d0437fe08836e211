"""`gcnet push`: pushes a trained model to the Hugging Face Hub."""

from gcnet.publishing.settings import PushSettings

SUMMARY = "push a trained model with its card to the Hugging Face Hub"

Settings = PushSettings


def run(settings: PushSettings) -> int:
    """Push the model, and print name, commit and URL.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.publishing.push import push

    content = settings.content
    print(
        push(
            settings.model,
            settings.repository,
            private=settings.private,
            results=content.results,
            images=content.images,
            license=content.license,
            overwrite=settings.overwrite,
        )
    )
    return 0
