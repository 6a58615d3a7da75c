"""CPU time until a model stands in memory, as multiples of `import torch`.

The library alone is what transformers needs to build the same network; the rest of ours is the host,
the configuration's schemas and our start values.

    python benchmarks/model_start.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from common import record
from startup import cpu_seconds

from detloom.counting import counted

OURS = (
    "from detloom.host import discover; from detloom.specs import ModelSpec, ModelContext; "
    "spec = discover().get(ModelSpec, '{name}'); spec.build(spec.settings(), ModelContext(('a', 'b'), (320, 320)))"
)
CASES = {
    "import torch": "import torch",
    "yolox-nano, built": OURS.format(name="yolox-nano"),
    "import transformers.RTDetrForObjectDetection": "from transformers import RTDetrForObjectDetection",
    "the library's RT-DETR r18, built": (
        "from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig; "
        "RTDetrForObjectDetection(RTDetrConfig(backbone_config=RTDetrResNetConfig(hidden_sizes=[64, 128, 256, 512], "
        "depths=[2, 2, 2, 2], layer_type='basic', out_indices=[2, 3, 4]), encoder_in_channels=[128, 256, 512], "
        "hidden_expansion=0.5, decoder_layers=3))"
    ),
    "rt_detr-r18, built": OURS.format(name="rt_detr-r18"),
    "d_fine-n, built": OURS.format(name="d_fine-n"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as bytecode:
        for number in range(rounds + 1):
            for name, code in CASES.items():
                seconds = cpu_seconds(["-c", code], bytecode)
                if number:  # the first round compiles
                    times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["import torch"]
    rows = [f"| {name} | {value:.2f} | {value / bare:.1f} |" for name, value in medians.items()]
    record(
        "model_start",
        [
            "| what | CPU s | times `import torch` |",
            "|---|---|---|",
            *rows,
            "",
            f"Medians of {counted(rounds, 'round')}.",
        ],
    )


if __name__ == "__main__":
    main()
