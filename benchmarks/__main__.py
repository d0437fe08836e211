"""`python -m benchmarks [table|positions|blocks]`: measure, print and write; see docs/benchmarks.md."""

import sys
from collections.abc import Sequence

from benchmarks.settings import BenchmarkSettings
from gcnet.cli.arguments import parse
from gcnet.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default the process's own) and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        settings = parse(BenchmarkSettings, given, program="python -m benchmarks", epilogue="See docs/benchmarks.md.")
        if settings is not None:
            from benchmarks.run import RUNS  # torch is read only once there is something to measure

            RUNS[settings.what](settings)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
