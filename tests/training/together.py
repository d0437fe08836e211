"""What tests call in two gloo processes: each writes what it found into a file of its own, named by its rank."""

import atexit
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gcnet
from gcnet.errors import UserError
from gcnet.models.model_file import read_model_file
from gcnet.remote_files import RemoteError
from gcnet.tasks.registry import open_task
from gcnet.tensor_files import load_tensors
from gcnet.training.checksums import describe_names
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.progress import Silent
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.resume import resume
from training.photos import run, small_network
from training.toy import ToyTask, bits, tiny_network, toy_trainer

CPU = torch.device("cpu")


def normed_network(classes: int) -> nn.Module:
    """With batch norm, whose statistics differ between processes."""
    features = [nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(5, classes))


class Exchanging(nn.Module):
    """As SyncBatchNorm, which only works on GPUs: every forward pass in training waits for the other process."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.detach().mean()
            dist.all_reduce(mean)
        return x


def write(folder: Path, processes: Processes, value: Any) -> None:
    (folder / f"{processes.rank}.json").write_text(json.dumps(value))


def train_and_evaluate(settings: TrainSettings, folder: Path) -> None:
    """Train with and without an average of the weights, then evaluate the files of both."""
    torch.set_num_threads(1)
    runs = {}
    for name, ema in (("weights", None), ("average", 0.9)):
        runs[name] = override(settings, output=str(folder / name), ema_decay=ema)
        run(runs[name], normed_network)
    with processes_joined(CPU) as processes:
        write(folder, processes, {name: metrics_of_saved(runs[name], processes) for name in runs})


def metrics_of_saved(settings: TrainSettings, processes: Processes) -> dict[str, float]:
    """The metrics of a run's last weights, by the evaluation that the training makes."""
    task = open_task(settings, processes)
    network = normed_network(len(task.classes))
    network.load_state_dict(read_model_file(RunFolder(Path(str(settings.output.output))).last)[0])
    found = task.evaluate(network, CPU, stop=lambda: False)
    assert found is not None
    return dict(found.metrics)


def fail_in_the_first(folder: Path, kind: str) -> None:
    """What each process catches where the first one's work raises, and whether all are known to."""
    errors = {"user": UserError("the folder is not empty"), "network": RemoteError("no answer")}
    errors |= {"other": KeyError("a"), "stop": KeyboardInterrupt()}

    def work() -> None:
        raise errors[kind]

    with processes_joined(CPU) as processes:
        try:
            processes.by_first(work)
        except BaseException as error:
            write(folder, processes, [type(error).__name__, str(error), getattr(error, "common", None)])
        assert processes.by_first(lambda: processes.rank) == 0


def wait_for_a_process_that_ends(folder: Path) -> None:
    """What the first process raises where the second one has ended at once, as when it is killed."""
    try:
        with processes_joined(CPU) as processes:
            processes.sums([1.0])
            write(folder, processes, [])
            if not processes.first:
                os._exit(0)
            processes.sums([1.0])
    except (RuntimeError, UserError) as error:
        write(folder, Processes(), [type(error).__name__, str(error)])


def train_synchronized(folder: Path, dropped: dict[int, list[int]], grad_accumulation: int) -> None:
    """Four steps, some images of which cannot be read, by a network whose forward passes wait for each other."""
    torch.set_num_threads(1)
    with processes_joined(CPU) as processes:
        task = ToyTask(processes=processes)
        task.dropped = dropped
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(3, 7), Exchanging(), nn.ReLU(), nn.Linear(7, 1))
        trainer = toy_trainer(task, network, grad_accumulation=grad_accumulation)
        trainer.synchronized = True
        batches = task.batches(0, torch.device("cpu"))
        images = [trainer.train_step(next(batches)).images for _ in range(4)]
        write(folder, processes, {"images": images, "bits": bits(trainer.network)})


def train_with_norms(folder: Path, frozen: bool) -> None:
    """Three steps with batch norms, perhaps of frozen statistics: how DDP was set up, and the weights."""
    torch.set_num_threads(1)
    with processes_joined(CPU) as processes:
        task = ToyTask(processes=processes)
        trainer = toy_trainer(task, tiny_network(batch_norm=True), freeze_bn_stats=frozen)
        batches = task.batches(0, torch.device("cpu"))
        for _ in range(3):
            trainer.train_step(next(batches))
        wrapped: Any = trainer._wrapped
        found = {"broadcast": wrapped.broadcast_buffers, "views": wrapped.gradient_as_bucket_view}
        weights = [parameter.tolist() for parameter in trainer.network.parameters()]
        write(folder, processes, {**found, "weights": weights})


def count_exchanges(folder: Path) -> None:
    """The exchanges of numbers between the processes in one step, beside that of the gradients."""
    torch.set_num_threads(1)
    with processes_joined(CPU) as processes:
        task = ToyTask(processes=processes)
        trainer = toy_trainer(task)
        batches, exchanges = task.batches(0, torch.device("cpu")), list[int]()
        exchange = dist.all_reduce
        trainer.train_step(next(batches), lambda: [0.0])

        def counted(values: Tensor, *args: Any, **options: Any) -> Any:
            exchanges.append(values.numel())
            return exchange(values, *args, **options)

        dist.all_reduce = counted
        trainer.train_step(next(batches), lambda: [0.0])
        dist.all_reduce = exchange
        write(folder, processes, exchanges)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution by a matrix, whose gradient has other strides than a weight in channels-last format."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.flatten(1), self.bias)


def train_pointwise(folder: Path) -> None:
    """The warnings of a step."""
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as issued, processes_joined(CPU) as processes:
        task = ToyTask(processes=processes)
        trainer = toy_trainer(task, Pointwise(3, 1, 1).to(memory_format=torch.channels_last))
        trainer.train_step(next(task.batches(0, CPU)))
        write(folder, processes, [str(warning.message) for warning in issued])


class Counting(nn.Module):
    """A module with a buffer that changes in training, by other values in each process."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.total += x.detach().sum()
        return x + 0.01 * self.total


def train_with_own_buffers(folder: Path) -> None:
    """The buffer of a network of the user before the forward pass of the third step."""
    torch.set_num_threads(1)
    with processes_joined(CPU) as processes:
        task = ToyTask(processes=processes)
        trainer = toy_trainer(task, nn.Sequential(Counting(), *tiny_network()))
        batches, totals = task.batches(0, torch.device("cpu")), list[float]()
        trainer.network[0].register_forward_pre_hook(lambda module, _: totals.append(float(module.total)))
        for _ in range(3):
            trainer.train_step(next(batches))
        write(folder, processes, totals)


def check_weights_of_one(folder: Path) -> None:
    """What each process raises where a weight of the second alone is not finite."""
    with processes_joined(CPU) as processes:
        trainer = toy_trainer(ToyTask(processes=processes))
        if not processes.first:
            with torch.no_grad():
                trainer.network[0].weight[0, 0] = float("nan")
        try:
            trainer.check_weights()
        except UserError as error:
            write(folder, processes, str(error))


def join_twice(folder: Path) -> None:
    """Join, join again inside and fail there; then join anew, after leaving."""
    with processes_joined(CPU) as outer:
        try:
            with processes_joined(CPU) as inner:
                assert inner.sums([1]) == [2]
                raise KeyError
        except KeyError:
            assert outer.start_counts(outer.rank + 5)() == [5, 6]
    assert not dist.is_initialized()
    write(folder, outer, os.environ["WORLD_SIZE"])


def fail_at_the_end(folder: Path, rank: int) -> None:
    """One process fails after the last exchange with the other."""
    try:
        with processes_joined(CPU) as processes:
            if processes.rank == rank:
                raise KeyError
    except KeyError:
        pass
    write(folder, processes, processes.rank)


def threads_left(folder: Path) -> None:
    """At its end, a process writes its threads; its DistributedDataParallel was in a reference cycle."""
    rank = os.environ["RANK"]
    atexit.register(lambda: (folder / f"{rank}.json").write_text(json.dumps(_thread_names())))
    with processes_joined(CPU) as processes:
        network = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
        network(torch.ones(3, 2)).sum().backward()
        processes.gather("last")
        cycle: list[object] = [network]
        cycle.append(cycle)
        del network


def _thread_names() -> list[str]:
    return [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]


def gather_ranks(folder: Path) -> None:
    """Ranks gathered in the first process."""
    with processes_joined(CPU) as processes:
        write(folder, processes, processes.gather_in_first([processes.rank] * (1 + processes.rank)))


def find_other_data(folder: Path) -> None:
    """What each process raises where the second one has an image fewer."""
    with processes_joined(CPU) as processes:
        names = ["a.png", "b.png"][: 2 - processes.rank]
        processes.require_same(lambda: "the same")
        try:
            processes.require_same(lambda: describe_names(names))
        except UserError as error:
            write(folder, processes, str(error))
        processes.gather(None)


def join_on_other_devices(folder: Path) -> None:
    """What each process raises where only the second one has a GPU."""
    rank = int(os.environ["RANK"])
    try:
        with processes_joined(torch.device("cuda" if rank else "cpu")):
            pass
    except UserError as error:
        write(folder, Processes(rank, 2), [str(error), error.reported])


def evaluate_with_model_on_one_machine(model: str, folder: Path) -> None:
    """What each process raises where the second one has no model."""
    rank = int(os.environ["RANK"])
    try:
        gcnet.evaluate(model if rank == 0 else f"{model}-gone", data="scenes", limit=4, device="cpu")
    except UserError as error:
        write(folder, Processes(rank, 2), [type(error).__name__, str(error)])


def call_with_own(folder: Path, work: Callable[..., Any], arguments: list[dict[str, Any]]) -> None:
    """What each process raises by a call with arguments of its own, as on machines with other files."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    try:
        work(**arguments[rank], device="cpu")
    except UserError as error:
        write(folder, Processes(rank, 2), [str(error), error.common])


def resume_on_own_machine(folder: Path, url: str, environment: dict[str, str]) -> None:
    """Resume a run at a URL, each process with a cache of its own."""
    rank = os.environ["RANK"]
    os.environ |= environment | {"GCNET_CACHE": str(folder / f"cache-{rank}")}
    torch.set_num_threads(1)
    result = resume(url, build_model=small_network, reporter=Silent())
    steps = load_tensors(result.folder / "checkpoint.safetensors")[1]["state"]["trainer"]["step"]
    write(folder, Processes(int(rank), 2), [result.steps, steps])
