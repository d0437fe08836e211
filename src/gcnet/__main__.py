"""The `gcnet` command: `gcnet`, `python -m gcnet`, and `torchrun -m gcnet` for several processes."""

import sys


def main() -> int:
    """Return the exit code of the command line; Ctrl-C during imports is handled, too."""
    try:
        from gcnet.cli import main as run
    except KeyboardInterrupt:
        print("gcnet: interrupted", file=sys.stderr)
        exec("")  # as in gcnet.cli.main
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
