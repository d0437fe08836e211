"""Names that users know from other tools, and what the same thing is called here."""

from collections.abc import Container

COMMANDS = {
    "val": "evaluate",
    "valid": "evaluate",
    "validate": "evaluate",
    "test": "evaluate",
    "eval": "evaluate",
    "infer": "predict",
    "inference": "predict",
    "detect": "predict",
    "classify": "predict",
    "fit": "train",
    "finetune": "train",
    "fine-tune": "train",
    "resume": "train --resume RUN",
    "benchmark": "cost --measure",
    "profile": "cost --measure",
    "flops": "cost",
    "info": "cost",
    "summary": "cost",
    "visualize": "analyze",
    "attention": "analyze",
    "check": "check-data",
    "doctor": "check-data",
    "list": "models",
    "version": "--version",
    "export": "torch.onnx.export(gcnet.load_model(FILE), ...)",
}
"""Command of another tool -> the command here, or what does the same in Python."""

_FLAGS = {
    ("pretrained",): "--weights pretrained",
    ("checkpoint", "ckpt", "load", "load-from", "init", "initial-checkpoint"): "--weights",
    ("gpu", "gpu-id"): "--device",
    ("cuda", "use-cuda"): "--device cuda",
    ("cpu", "no-cuda"): "--device cpu",
    ("amp", "bf16", "mixed-precision", "autocast", "amp-dtype", "dtype"): "--precision bf16",
    ("fp16", "half"): "--precision fp16",
    ("freeze-backbone",): "--freeze",
    ("lr0", "learning-rate", "base-lr"): "--lr",
    ("b", "bs", "batch", "samples-per-gpu", "per-device-train-batch-size"): "--batch-size",
    ("j", "num-workers", "loader-workers", "workers-per-gpu", "dataloader-num-workers"): "--workers",
    (
        "imgsz",
        "img",
        "img-size",
        "input-size",
        "size",
        "resolution",
        "val-crop-size",
        "train-crop-size",
    ): "--image-size",
    ("m", "arch", "net", "network", "backbone", "architecture", "cfg", "config"): "--model",
    ("attention", "attn", "plugin"): "--block",
    ("dataset", "data-dir", "data-path", "data-root", "train-dir", "img-dir", "source", "d"): "--data",
    ("image-dir", "img-folder", "image-root"): "--images",
    ("o", "out", "out-dir", "output-dir", "work-dir", "save-dir", "save", "project", "name", "experiment"): "--output",
    ("n", "e", "max-epochs", "num-epochs", "num-train-epochs"): "--epochs",
    ("max-steps", "max-iters", "iters", "iterations"): "--steps",
    ("wd",): "--weight-decay",
    ("opt", "optim"): "--optimizer",
    ("sched", "scheduler", "lr-scheduler", "lr-schedule"): "--schedule",
    ("warmup", "lr-warmup-epochs"): "--warmup-epochs",
    ("accum", "accum-iter", "grad-accum", "grad-accum-steps", "gradient-accumulation-steps"): "--accumulate",
    ("clip-grad", "max-grad-norm", "clip"): "--clip-norm",
    ("model-ema", "ema-decay"): "--ema",
    ("smoothing",): "--label-smoothing",
    ("conf", "conf-thres", "confidence", "score-thr", "score-threshold"): "--threshold",
    ("continue", "auto-resume", "resume-from"): "--resume",
    ("crop-pct",): "--crop",
    ("evaluate-only", "eval-only", "test-only", "dry"): "--dry-run",
}
FLAGS = {name: flag for names, flag in _FLAGS.items() for name in names}
"""Flag of another tool, without dashes -> the flag here, with the value that does the same where it needs one."""

_HINTS = {
    ("gpus", "num-gpus", "gpu-ids", "nproc", "world-size", "devices"): (
        "for several GPUs run torchrun --nproc-per-node N -m gcnet COMMAND, for one give --device cuda:0"
    ),
    ("num-classes", "nc", "n-classes", "nb-classes"): "the number of classes comes from the data",
    ("exist-ok", "overwrite", "force"): "existing results are never overwritten: give another --output",
}
HINTS = {name: hint for names, hint in _HINTS.items() for name in names}
"""Flag of another tool, without dashes -> why there is none here."""


def similar_flag(name: str, flags: Container[str]) -> str:
    """End of a sentence on an unknown flag that is known from other tools, or "".

    Args:
        name: the flag without dashes.
        flags: flags of the command, with dashes.
    """
    flag = FLAGS.get(name)
    if flag is not None and flag.split()[0] in flags:
        return f'; did you mean "{flag}"?'
    return f"; {HINTS[name]}" if name in HINTS else ""
