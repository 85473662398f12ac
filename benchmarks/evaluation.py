"""A bundle under simulated users, on every set with a validation list: Dice after a box, one click, and corrections.

    python benchmarks/evaluation.py --data FOLDER [--model lite-medsam] [--images 12]

The same as `samsdk evaluate`, kept as JSON in benchmarks/results/.
"""

import argparse
import json
import subprocess
import sys

from results import write_result


def main() -> None:
    """Run `samsdk evaluate` and keep what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="lite-medsam")
    parser.add_argument("--images", type=int, default=12)
    args = parser.parse_args()
    command = [sys.executable, "-m", "samsdk", "evaluate", args.model, "--data", args.data, "--json"]
    answer = subprocess.run([*command, "--images", str(args.images)], stdout=subprocess.PIPE, text=True, check=True)
    rules = {"list": "val.txt", "images": args.images, "objects_per_image": 8, "smallest_object": 30}
    print(write_result(f"evaluation-{args.model}", {"rules": rules, **json.loads(answer.stdout)}))


if __name__ == "__main__":
    main()
