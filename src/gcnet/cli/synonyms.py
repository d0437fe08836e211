"""Names from other tools, and the names here."""

from collections.abc import Container

from gcnet.renamed import OLD_VALUES

COMMAND_SYNONYMS = {
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
    "verify": "check-data",
    "app": "demo",
    "gradio": "demo",
    "serve": "demo",
    "try": "demo",
    "webui": "demo",
    "analyse": "analyze",
    "params": "cost",
    "list": "models",
    "version": "--version",
    "onnx": "export",
    "upload": "push",
    "publish": "push",
    "share": "push",
    "readme": "card",
    "deploy": "export",
    "quantize": "export --precision int8",
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
    ("lr0", "learning-rate", "base-lr", "blr"): "--lr",
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
    ("m", "model-name", "model-name-or-path", "arch", "net", "network", "backbone", "architecture"): "--model",
    ("attention", "attn", "plugin"): "--block",
    (
        "dataset",
        "dataset-name",
        "data-dir",
        "data-path",
        "data-root",
        "train-data",
        "train-dir",
        "img-dir",
        "source",
        "d",
    ): "--data",
    ("val-data", "val-dir", "validation-data", "valid"): "--val",
    ("image-dir", "img-folder", "image-root"): "--images",
    ("o", "out", "out-dir", "output-dir", "work-dir", "save-dir", "save", "project", "name", "experiment"): "--output",
    ("n", "e", "max-epochs", "num-epochs", "num-train-epochs"): "--epochs",
    ("max-steps", "max-iter", "max-iters", "iters", "iterations", "num-steps"): "--steps",
    ("wd",): "--weight-decay",
    ("opt", "optim"): "--optimizer",
    ("sched", "scheduler", "lr-scheduler", "lr-scheduler-type", "lr-schedule"): "--schedule",
    ("cos-lr",): "--schedule cosine",
    ("lr-decay", "gamma", "decay-rate"): "--lr-gamma",
    ("lr-steps", "decay-milestones"): "--milestones",
    ("warmup", "lr-warmup-epochs", "warmup-steps"): "--warmup-epochs",
    ("lrf", "lr-min", "eta-min"): "--min-lr",
    ("accum", "accum-iter", "grad-accum", "grad-accum-steps", "gradient-accumulation-steps"): "--grad-accumulation",
    ("clip-grad", "max-grad-norm", "clip"): "--clip-grad-norm",
    ("model-ema", "model-ema-decay"): "--ema-decay",
    ("smoothing",): "--label-smoothing",
    ("conf", "conf-thres", "confidence", "score-thr", "score-threshold"): "--threshold",
    ("max-det", "max-detections"): "--detections-per-image",
    ("random-erase", "random-erasing", "reprob"): "--erasing",
    ("aa", "autoaugment", "trivial-augment"): "--auto-augment",
    ("fliplr", "hflip-prob"): "--hflip",
    ("jitter-color", "hsv-h", "hsv-s", "hsv-v"): "--color-jitter",
    ("weighted-sampler", "balanced-sampling"): "--sampling balanced",
    ("sync-bn", "syncbn"): "--norm sync",
    ("no-aug", "no-augment"): "--random-crop none --hflip 0",
    ("top-k", "k"): "--topk",
    ("use-deterministic-algorithms",): "--deterministic",
    ("channels-first",): "--no-channels-last",
    ("save-every", "save-period", "save-freq", "checkpoint-every"): "--save-every-epochs",
    ("val-interval", "val-every", "eval-every", "eval-interval", "evaluation-interval"): "--evaluate-every",
    ("log-interval", "logging-steps", "print-freq", "log-freq"): "--log-every",
    ("continue", "auto-resume", "resume-from", "start-epoch"): "--resume",
    ("evaluate-only", "eval-only", "test-only", "dry"): "--dry-run",
}
FLAGS = {name: flag for names, flag in _FLAGS.items() for name in names}
"""Flag of another tool, without dashes -> the flag here, with the value that does the same where it needs one."""

_HINTS = {
    ("gpus", "num-gpus", "gpu-ids", "nproc", "world-size", "devices"): (
        "for several GPUs run torchrun --nproc-per-node N -m gcnet COMMAND, for one give --device cuda:0"
    ),
    ("num-classes", "nc", "n-classes", "nb-classes"): "the number of classes comes from the data",
    ("threads", "num-threads"): "the environment variable OMP_NUM_THREADS sets the number of threads",
    ("patience", "early-stopping", "early-stop"): (
        "training does not stop early: weights/best.safetensors are the weights of the best evaluation"
    ),
    ("dropout", "drop", "drop-rate", "drop-path"): "networks are trained with the dropout that they are built with",
    ("compile", "torchcompile", "torch-compile"): "in Python: torch.compile(gcnet.load_model(FILE))",
    ("wandb", "report-to", "tensorboard", "logger"): "a run writes metrics.jsonl and results.csv, for any logger",
    ("flipud", "vflip"): "only horizontal flips are supported, by --hflip",
    ("rank", "local-rank", "dist-url", "launcher", "distributed", "nproc-per-node"): (
        "for several processes run torchrun --nproc-per-node N -m gcnet COMMAND"
    ),
    (
        "config",
        "cfg",
        "config-file",
        "yaml",
        "hyp",
        "opts",
        "cfg-options",
    ): "there are no configuration files: all settings are flags",
    ("source",): "images and folders are given without a flag",
    ("exist-ok", "overwrite", "force"): "existing results are never overwritten: give another --output",
}
HINTS = {name: hint for names, hint in _HINTS.items() for name in names}
"""Flag of another tool, without dashes -> why there is none here."""


def similar_flag(name: str, flags: Container[str]) -> str:
    """Return the end of an error on a flag that other tools have, or "".

    Args:
        name: the flag without dashes.
        flags: flags of the command, with dashes.
    """
    flag = FLAGS.get(name)
    if flag is not None and flag.split()[0] in flags:
        return f'; did you mean "{flag}"?'
    return f"; {HINTS[name]}" if name in HINTS else ""


_VALUES = {
    ("fp32", "32", "full", "float", "single"): "float32",
    ("half", "16", "float16", "16-mixed", "fp16-mixed"): "fp16",
    ("bfloat16", "amp", "mixed", "auto", "bf16-mixed"): "bf16",
    ("cosineannealing", "cosineannealinglr", "cosine-annealing"): "cosine",
    ("multistep", "multisteplr", "steplr"): "step",
    ("cubic",): "bicubic",
    ("linear",): "bilinear",
    ("adam",): "adamw",
    ("torch", "pt2", "pytorch", "exported-program"): "torch-export",
    ("xml", "ov", "ir"): "openvino",
}
VALUE_SYNONYMS = {name: value for names, value in _VALUES.items() for name in names} | dict(OLD_VALUES)
"""Value of a flag in another tool or an earlier version -> the value here."""
