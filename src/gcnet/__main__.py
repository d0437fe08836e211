"""The `gcnet` command as a module: `python -m gcnet`, and `torchrun -m gcnet` for several processes."""

import sys

from gcnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
