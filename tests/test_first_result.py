"""What a new process imports until its first prediction; the seconds are in docs/prediction.md."""

import subprocess
import sys
from pathlib import Path

import gcnet

NOT_NEEDED = (
    "faster_coco_eval",
    "gradio",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "onnx",
    "pandas",
    "rich",
    "sympy",
    "timm",
    "torch._dynamo",
    "torch._inductor",
    "torch.utils.flop_counter",
    "torchvision.transforms.v2",
)
PREDICT = """
import sys
import gcnet
from PIL import Image
result = gcnet.load(sys.argv[1], device="cpu")(Image.new("RGB", (80, 70)))
assert len(result.images) == 1
print(*sys.modules, sep="\\n")
"""
ROI_ALIGN = """
from gcnet.torchvision_import import import_torchvision
import_torchvision()
import sys, torch
assert "torch._dynamo" not in sys.modules
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
torch.use_deterministic_algorithms(True)  # for which torchvision compiles RoIAlign where that is possible
assert roi_align(torch.ones(1, 1, 8, 8), boxes, (2, 2)).shape == (1, 1, 2, 2)
import torch._dynamo.utils
assert torch._dynamo.utils.counters is not None
assert not hasattr(torch._dynamo.utils, "no such name")
"""


def modules_of(program: str, *arguments: object) -> set[str]:
    words = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_prediction_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    model = gcnet.create_model("gc_resnet18", num_classes=3)
    gcnet.save_model(model, tmp_path / "model.safetensors", preprocessing={"image_size": 64})
    imported = modules_of(PREDICT, tmp_path / "model.safetensors")
    assert "torchvision.models" in imported
    assert imported.isdisjoint(NOT_NEEDED)


def test_torchvision_compiles_as_before_when_its_import_was_deferred() -> None:
    modules_of(ROI_ALIGN)
