"""`python -m tests.fuzz --count 10000`: damaged files of every kind; exit 1 if one is not read or refused properly."""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tqdm import tqdm

from tests.fuzz import harness


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases over all kinds (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; case i has seed + i")
    parser.add_argument("--only", nargs="*", choices=harness.kinds(), help="these kinds alone")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that a case may take")
    arguments = parser.parse_args()
    chosen = arguments.only or harness.kinds()
    each = max(1, arguments.count // len(chosen))
    tallies = []
    for kind in chosen:
        cases = harness.run(kind, harness.seeds_of(arguments.seed, each), arguments.limit)
        tally = harness.last(tqdm(cases, total=each, desc=kind, disable=not sys.stderr.isatty()))
        tallies.append(tally)
        print(harness.report([tally]), flush=True)
    print("\nAll kinds\n" + harness.report(tallies, shown=0))
    return int(any(t.tracebacks or t.hangs or t.silent for t in tallies))


if __name__ == "__main__":
    sys.exit(main())
