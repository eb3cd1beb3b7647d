"""Speed of capture on this machine, kept: the flags of `mads-ray bench throughput`, and --store.

  python benchmarks/throughput.py --store NAME [--rows N] [--input FILE --ray] ...

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json

from results import store

from mads_ray.bench.__main__ import figures


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--store", default=None)
    own, flags = parser.parse_known_args()
    result = figures(flags)
    if own.store:
        store(own.store, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
