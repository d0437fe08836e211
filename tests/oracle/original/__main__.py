"""Serve calls of the original code: one JSON request per line of stdin, one JSON answer per line of stdout.

A request is {"function": "module.name", "arguments": {...}}; an answer is {"result": ...} or {"error": traceback}.
Tensors are exchanged through files. Everything that the original code prints goes to stderr.
"""

import importlib
import json
import os
import sys
import traceback
import warnings

import mmcv_ext
import torch


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mmcv_ext.install()
    for line in sys.stdin:
        request = json.loads(line)
        module, name = request["function"].split(".")
        try:
            answer = {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
