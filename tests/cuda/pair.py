"""Functions that tests run in two processes."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

from gcnet.models.create import create_model
from gcnet.training.distributed import processes_joined
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings
from gcnet.training.trainer import Trainer


def train(rank: int, folder: str, device: str, backend: str) -> None:
    """Train two steps on images of this process, and save the weights of this process."""
    from cuda.test_training import SamePhotos

    torch.set_num_threads(1)
    place = torch.device(device, rank if backend == "nccl" else 0) if device == "cuda" else torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    os.environ.update(MASTER_ADDR="127.0.0.1", USE_LIBUV="0")
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(1)
    network = create_model("cifar_resnet20", num_classes=3, block="gc")
    torch.manual_seed(2 + rank)
    with processes_joined(place) as processes:
        task = SamePhotos()
        recipe = RecipeSettings(steps=2, batch_size=12, lr=0.02, warmup_epochs=0.0)
        machine = MachineSettings(precision="float32")
        trainer = Trainer(task, network, recipe=recipe, machine=machine, device=place, processes=processes)
        for _ in range(2):
            trainer.train_step(task.batch)
        weights = [parameter.detach().cpu() for parameter in trainer.network.parameters()]
        torch.save(weights, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
