"""Every benchmark, one after the other; each writes benchmarks/results/NAME.md.

    python benchmarks/run_all.py [--long]

Those that need real data are left out, saying so, where DETLOOM_TEST_DATA is not set. `--long` adds the trainings that
take more than ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALWAYS = (
    ["startup.py"],
    ["loop_overhead.py"],
    ["optimizer_cost.py"],
    ["memory_plan.py"],
    ["step_time.py"],
    ["model_start.py"],
    ["coco_eval.py"],
    ["data_cache.py"],
    ["data_check.py"],
    ["formats.py"],
    ["clearml_outage.py", "--write"],
)
WITH_DATA = (["image_reading.py"], ["bccd.py", "short"])
LONG = (["bccd.py", "long"],)


def main() -> int:
    jobs = list(ALWAYS)
    if os.environ.get("DETLOOM_TEST_DATA"):
        jobs += [*WITH_DATA, *(LONG if "--long" in sys.argv[1:] else ())]
    else:
        print("DETLOOM_TEST_DATA is not set: the trainings on BCCD are left out")
    failed = []
    for name, *arguments in jobs:
        print(f"\n== {name} {' '.join(arguments)}", flush=True)
        if subprocess.run([sys.executable, str(HERE / name), *arguments], cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
