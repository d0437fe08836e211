"""Prints time and memory from opening a COCO data set to the first batch, as JSON."""

import json
import multiprocessing
import resource
import sys
import time
from typing import Any

import faster_coco_eval.core.mask  # noqa: F401
import torch

from gcnet.data.coco.loading import DetectionDataset, aspect_groups, build_detection_loader
from gcnet.data.coco.open import open_coco
from gcnet.data.sampler import EpochSampler
from gcnet.data.settings import DataSettings
from private_memory import private_memory


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def figures(data: str) -> dict[str, Any]:
    """Open a data set and load a batch, then another one with two workers."""
    memory, started, cpu = private_memory(), time.perf_counter(), cpu_seconds()
    train, _ = open_coco(DataSettings(data=data))
    images = train.images.with_objects()
    train.mask_counts()
    order = EpochSampler(len(images), batch_size=2, seed=0, groups=aspect_groups(images), rank=0, world=1)
    order.start(0)
    samples = DetectionDataset(images)
    batch = next(iter(build_detection_loader(samples, order)))
    result = {
        "first_batch_s": time.perf_counter() - started,
        "first_batch_cpu_s": cpu_seconds() - cpu,
        "memory_mb": (private_memory() - memory) / 1e6,
    }
    started, cpu = time.perf_counter(), cpu_seconds()
    count = sum(1 for _ in train.contents())
    result |= {"record_s": time.perf_counter() - started, "record_cpu_s": cpu_seconds() - cpu}
    order.start(0)
    loader = build_detection_loader(samples, order, 2)
    iterator = iter(loader)
    assert torch.equal(next(iterator).targets[0]["mask_bits"], batch.targets[0]["mask_bits"])
    workers = [private_memory(child.pid or 0) / 1e6 for child in multiprocessing.active_children()]
    return result | {"workers_mb": workers, "images": count - 1, "annotations": train.images.index.count}


if __name__ == "__main__":
    print(json.dumps(figures(sys.argv[1])))
