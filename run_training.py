"""Train from a clone, without installing: equal to `detloom train`.

    python run_training.py --dataset-dir ./data/my-dataset --epochs 100 --batch-size 8

Started by clearml-agent it needs no argument at all.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# First of all, so that this clone is used and not an installed detloom; worker processes inherit it.
sys.path[:0] = [str(ROOT / name) for name in ("core", "plugins", "integrations", "schemas")]

if __name__ == "__main__":
    from detloom.cli import main

    sys.exit(main(["train", *sys.argv[1:]], prog="run_training.py"))
