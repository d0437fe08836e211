"""Training loop: steps, evaluations, logging, checkpoints and stop requests, for any task."""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from gcnet.data.seeding import preserved_random_state
from gcnet.errors import UserError, printable
from gcnet.remote_files import RemoteError
from gcnet.storage import link_or_copy
from gcnet.training.checkpoint import (
    CheckpointSaver,
    check_fits,
    check_same_optimizer,
    random_states,
    restore_random_states,
    seed_everything,
)
from gcnet.training.losses import NonFiniteLoss
from gcnet.training.pace import Pace
from gcnet.training.progress import Reporter, clock, epoch_text, format_score
from gcnet.training.run_folder import RunFolder, write_json
from gcnet.training.run_state import LossSums, RunState, read_state
from gcnet.training.settings import OutputSettings
from gcnet.training.sharded_checkpoint import ShardedCheckpointSaver, has_shards, load_shards
from gcnet.training.sharded_network import is_sharded
from gcnet.training.signals import STOP_SIGNALS, StopRequest, handle_signals
from gcnet.training.task import Evaluation, TrainingBatch
from gcnet.training.trainer import StepOutcome, Trainer

_SECONDS_BETWEEN_CURVES = 60.0
_SECONDS_BETWEEN_SKIPPED = 10.0


class TrainingLoop:
    """Drives a trainer to the end of its run, or until a signal requests a stop.

    Args:
        trainer: with its task.
        folder: of the run.
        output: when to evaluate, save and log.
        reporter: of the progress.
        seed: of the run, for processes that are not in the checkpoint.

    Attributes:
        stopped: number of the signal that ended the run, or 0.
    """

    def __init__(
        self, trainer: Trainer, folder: RunFolder, *, output: OutputSettings, reporter: Reporter, seed: int
    ) -> None:
        self.trainer, self.folder, self.output, self.reporter, self.seed = trainer, folder, output, reporter, seed
        self.task, self.processes = trainer.task, trainer.processes
        self.saver = (
            ShardedCheckpointSaver(folder.checkpoint, self.processes)
            if trainer.sharded
            else CheckpointSaver(folder.checkpoint, in_thread=output.save_async, saved=self._publish)
        )
        self.state, self.window, self.epoch = RunState(), LossSums(), LossSums()
        self.stopped = 0
        self._saved = -1
        self._votes: list[float] = []
        self._began = self._saved_at = time.monotonic()
        self._drew_at = -math.inf
        self._pace = Pace(trainer.device)
        self._single_noted = False
        self._skipped_written = self._began
        self._best_evaluation: Evaluation | None = None

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.trainer.schedule.total

    def run(self) -> None:
        """Train until the end, or until a stop is requested.

        Raises:
            NonFiniteLoss: the last checkpoint is untouched; non_finite.json lists the images.
            StorageError: a file cannot be written.
        """
        with handle_signals() as request:
            try:
                self._run(request)
            except NonFiniteLoss as error:
                if self.processes.first:
                    write_json(self.folder.path / "non_finite.json", {"step": error.step + 1, "images": error.names})
                raise
            finally:
                self.saver.close()
                self.reporter.close()

    def _run(self, request: StopRequest) -> None:
        batches = self.task.batches(self.trainer.step, self.trainer.device)
        while True:
            self.saver.check()
            evaluated = self._evaluate_if_due(request)
            wanted = self._agree(request, asks=evaluated or self.processes.world == 1)
            done = self.trainer.step >= self.total
            if wanted or done or self.stopped or self._save_due():
                self._save()
            if done or self.stopped:
                break
            self._step(batches, request)
        self.saver.wait()
        self._write_skipped()
        if self.stopped:
            self._write_weights()
            self._draw_best()
            name = signal.Signals(self.stopped).name
            place = self.folder.place
            self.reporter.log(f"{name}: saved at step {self.trainer.step}; resume it with `gcnet.resume({place})`")

    def _step(self, batches: Iterator[TrainingBatch], request: StopRequest) -> None:
        batch = self._pace.next_batch(batches)
        if self.trainer.step == 0 and self.output.plots and self.processes.first and batch.names:
            with preserved_random_state():
                self.task.draw_inputs(self.task.prepare(batch, 0, self.trainer.device), self.folder.train_images)
        self._name_skipped({skipped.name: skipped.reason for skipped in batch.skipped})
        outcome = self.trainer.train_step(batch, lambda: self._own_votes(request))
        self._votes = outcome.votes
        self._note_single_values()
        if not outcome.images:
            where = " in one of the processes" if self.processes.world > 1 else ""
            self.reporter.log(f"step {self.trainer.step} skipped: no image could be read{where}")
        self.window.add(outcome)
        self.epoch.add(outcome)
        step = self.trainer.step
        if step % self.task.steps_per_epoch == 0 and self.epoch.images == 0:
            raise UserError(f"no training image could be read; the reasons are in {self.folder.skipped}")
        if step % self.output.log_every == 0 or step == self.total:
            self._write_row(outcome)
        loss = sum(outcome.loss_sums.values()) / max(outcome.own_images, 1)
        self._advance(f"loss {loss:.4f}  lr {outcome.rate:.2e}  {self._pace.describe_step(outcome.images)}")

    def _note_single_values(self) -> None:
        if self.trainer.single_valued == 1 and not self._single_noted:
            self._single_noted = True
            self.reporter.log(
                f"note: the batch of step {self.trainer.step} has one image; batch norms use their running statistics "
                "for such batches"
            )

    def _advance(self, text: str) -> None:
        shown = f"epoch {self._epoch():.2f}  {text}  {clock(self.seconds())}"
        self.reporter.advance(self.trainer.step, self.total, shown)

    def _epoch(self) -> float:
        return self.trainer.step / self.task.steps_per_epoch

    def seconds(self) -> float:
        """Return the training time so far in seconds, including earlier parts of a resumed run."""
        return round(self.state.seconds + time.monotonic() - self._began, 3)

    def _write_row(self, outcome: StepOutcome) -> None:
        means, images = self._means(self.window), self.window.images
        speed = self._pace.row(images)
        self.window = LossSums()
        if self.processes.first:
            parts = means if len(means) > 1 else {}
            row = {"kind": "train", "step": self.trainer.step, "epoch": round(self._epoch(), 4)}
            rates = {"learning_rate": outcome.rate, **speed, "seconds": self.seconds()}
            self.folder.append(row | {"loss": _total(means)} | parts | rates)

    def _means(self, mean: LossSums) -> dict[str, float]:
        """Each loss as a mean over the images of all processes."""
        gathered = self.processes.gather((mean.sums, mean.own_images))
        images = sum(count for _, count in gathered)
        names = dict.fromkeys(name for sums, _ in gathered for name in sums)
        return {name: math.fsum(sums.get(name, 0.0) for sums, _ in gathered) / images for name in names}

    def _name_skipped(self, skipped: Mapping[str, str]) -> None:
        new = {name: reason for name, reason in skipped.items() if name not in self.state.skipped}
        if not new:
            return
        self.state.skipped |= new
        for name, reason in new.items():
            self.reporter.log(f"skipped {printable(name)}: {printable(reason)}")
        if time.monotonic() - self._skipped_written > _SECONDS_BETWEEN_SKIPPED:
            self._write_skipped()

    def _write_skipped(self) -> None:
        self._skipped_written = time.monotonic()
        if self.processes.first and self.state.skipped:
            self.folder.write_skipped(self.state.skipped)

    def _evaluate_if_due(self, request: StopRequest) -> bool:
        """Evaluate if it is due; returns whether it was."""
        step = self.trainer.step
        every = max(1, round(self.output.evaluate_every * self.task.steps_per_epoch))
        if step == self.state.evaluated or (step % every and step != self.total):
            return False
        self.trainer.share_trained()
        self.trainer.check_weights()
        # Processes could see a signal at different batches, and would then wait for each other for ever.
        alone = self.processes.world == 1
        with preserved_random_state(), self._pace.paused():
            evaluation = self.task.evaluate(
                self.trainer.whole(self.trainer.trained),
                self.trainer.device,
                stop=lambda: alone and bool(request.stop),
                progress=lambda done: self._advance(f"validating {done:,}/{self.task.evaluation_images:,}"),
            )
        if evaluation is not None:
            self._note_evaluation(evaluation)
        return True

    def _note_evaluation(self, evaluation: Evaluation) -> None:
        self._gather_skipped(evaluation.skipped)
        means = self._means(self.epoch)
        step = self.trainer.step
        row: dict[str, Any] = {
            "kind": "evaluation",
            "step": step,
            "epoch": round(self._epoch(), 4),
            "train_loss": _total(means),
        }
        row |= {"learning_rate": self.trainer.schedule.at(step - 1), **evaluation.metrics, "images": evaluation.images}
        row |= {"skipped": len(evaluation.skipped), "skipped_total": len(self.state.skipped), "seconds": self.seconds()}
        metric = self.task.metric
        is_best = self.state.best is None or row[metric] > self.state.best[metric]
        self.state.last, self.state.evaluated, self.epoch = row, step, LossSums()
        self.state.best = row if is_best else self.state.best
        self._write_weights(best=is_best)
        if self.processes.first:
            self.folder.append(row)
            self.folder.write_results()
            self._write_skipped()
            self._best_evaluation = evaluation if is_best else self._best_evaluation
            self._draw()
        shown = "  ".join(
            format_score(name, evaluation.metrics[name]) for name in evaluation.shown or evaluation.metrics
        )
        star = "  (best)" if is_best else ""
        self.reporter.log(
            f"epoch {epoch_text(self._epoch())}  step {step}/{self.total}  train_loss {_total(means):.4f}  {shown}"
            f"  lr {row['learning_rate']:.2e}  {clock(row['seconds'])}{star}"
        )

    def _gather_skipped(self, evaluated: Mapping[str, str]) -> None:
        everywhere = dict(evaluated)
        for skipped in self.processes.gather(self.state.skipped):
            everywhere |= skipped
        self._name_skipped(everywhere)

    def _write_weights(self, *, best: bool = False) -> None:
        network = self.trainer.saved()
        if self.processes.first:
            self.task.save(network, self.folder.last)
            if best:
                link_or_copy(self.folder.last, self.folder.best)

    def _draw(self) -> None:
        finished = self.trainer.step >= self.total
        if not self.output.plots or not (finished or time.monotonic() - self._drew_at > _SECONDS_BETWEEN_CURVES):
            return
        self._drew_at = time.monotonic()
        self.task.draw_curves(self.folder.rows(), self.folder.path)
        self._draw_best()

    def _draw_best(self) -> None:
        """Pictures of the best evaluation, unless they are drawn already."""
        if self._best_evaluation is not None and self.state.best is not None and self.output.plots:
            title = f"best weights, epoch {epoch_text(self.state.best['epoch'])}"
            self.task.draw_evaluation(self._best_evaluation, self.folder.path, title=title)
        self._best_evaluation = None

    def _own_votes(self, request: StopRequest) -> list[float]:
        """What the signals to this process ask for: a stop by each of `STOP_SIGNALS`, and a checkpoint."""
        save = request.save or self._minutes_over()
        request.save = False
        request.check_launcher()
        return [*(float(request.stop == number) for number in STOP_SIGNALS), float(save)]

    def _agree(self, request: StopRequest, *, asks: bool) -> bool:
        """Take notice of signals, in all processes alike; returns whether a checkpoint was asked for.

        Args:
            request: of this process.
            asks: whether signals can have come since the exchange of votes in the last step.
        """
        votes = self._votes
        if asks or not votes:
            now = self.processes.sums(self._own_votes(request))
            votes = [before + after for before, after in zip(votes or [0.0] * len(now), now, strict=True)]
        self._votes = []
        *stops, saves = votes
        self.stopped = next((number for number, vote in zip(STOP_SIGNALS, stops, strict=True) if vote), 0)
        return bool(saves)

    def _minutes_over(self) -> bool:
        minutes = self.output.save_every_minutes
        return self.processes.first and minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _save_due(self) -> bool:
        step, epochs = self.trainer.step, self.output.save_every_epochs
        intervals = [self.output.save_every_steps or 0]
        intervals.append(max(1, round(epochs * self.task.steps_per_epoch)) if epochs else 0)
        return step > 0 and any(interval and step % interval == 0 for interval in intervals)

    def _save(self) -> None:
        if self._saved == self.trainer.step:
            return
        self.trainer.check_weights()
        own = {"random": random_states(), "window": asdict(self.window), "epoch": asdict(self.epoch)}
        everyone = self.processes.gather(own)
        skipped = {name: reason for part in self.processes.gather(self.state.skipped) for name, reason in part.items()}
        if self.processes.first or self.trainer.sharded:
            record = asdict(self.state) | {"seconds": self.seconds(), "skipped": skipped}
            state = {"trainer": self.trainer.state(), "record": record, "processes": everyone}
            self.saver.save(state)
        self._saved, self._saved_at = self.trainer.step, time.monotonic()

    def _publish(self) -> None:
        """Publish the run; training continues without the network, and the next checkpoint is published again."""
        try:
            self.folder.publish()
        except RemoteError as error:
            if not self.stopped and self.trainer.step < self.total:  # otherwise it is raised at the end
                self.reporter.log(f"note: {error}")

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Restore a checkpoint; rows written after it are dropped.

        Args:
            state: of the checkpoint.

        Returns:
            Notes on damaged files of the run, one sentence each.

        Raises:
            UserError: the checkpoint does not fit the network or the settings.
            StorageError: shards of the checkpoint are damaged.
        """
        stored = state["trainer"]
        check_fits(self.trainer.network, stored["network"])
        check_same_optimizer(self.trainer.optimizer, stored["optimizer"])
        sharded, averaged = self.trainer.sharded, self.trainer.average is not None
        for name, same in (
            ("shard_model", sharded == has_shards(state)),
            ("ema_decay", averaged == (stored["average"] is not None)),
        ):
            if not same:
                raise UserError(
                    f"`{name}` in config.json was changed and does not fit the checkpoint: restore its value"
                )
        if has_shards(state):
            like = next(filter(is_sharded, self.trainer.network.parameters()))
            state = load_shards(self.folder.checkpoint, state, like, self.processes)
        self.trainer.load_state(state["trainer"])
        self.state = read_state(state["record"])
        self._saved = self.trainer.step
        rank, saved = self.processes.rank, state["processes"]
        if self.processes.world != len(saved):
            self.reporter.log(
                f"saved by {len(saved)} processes and resumed by {self.processes.world}: the random draws "
                "differ from those of an uninterrupted run"
            )
        if rank < len(saved):
            restore_random_states(saved[rank]["random"])
            self.window, self.epoch = LossSums(**saved[rank]["window"]), LossSums(**saved[rank]["epoch"])
        else:
            seed_everything(self.seed, rank, self.trainer.step)
        if not self.processes.first:
            return []
        return self.folder.rewind(self.trainer.step, self.state.evaluated)


def _total(means: Mapping[str, float]) -> float:
    return math.fsum(means.values())
