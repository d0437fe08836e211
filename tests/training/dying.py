"""`gcnet` in a job of torchrun whose process of rank 1 is killed in the sixth step, unless the job has restarted."""

import os
import signal
import sys
from typing import Any

from gcnet import cli
from gcnet.training.trainer import Trainer

if __name__ == "__main__":
    train_step, calls = Trainer.train_step, 0

    def die_in_the_sixth(trainer: Trainer, *arguments: Any) -> Any:
        global calls
        calls += 1
        if calls == 6:  # rank 0, which has made the fifth step together with this process, has saved the fourth
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(trainer, *arguments)

    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        Trainer.train_step = die_in_the_sixth  # type: ignore[method-assign]
    sys.exit(cli.main())
