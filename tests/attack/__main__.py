"""Attack a program that is started for it, and print what was tried, what held and what did not."""

from __future__ import annotations

import argparse
import sys

from tests.attack.sections import SECTIONS
from tests.attack.target import target


def main() -> int:
    """Status 1 if anything did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--long", action="store_true", help="every function, way and spelling (minutes)")
    parser.add_argument("--only", metavar="SECTION", help="this section alone")
    options = parser.parse_args()
    failed: list[str] = []
    with target(options.long) as program:
        print(f"{'section':<24}{'tried':>7}{'held':>7}{'not':>6}", flush=True)
        for section in SECTIONS:
            if options.only and options.only not in section.__name__:
                continue
            tried = list(section(program))
            missed = [what for what, held in tried if not held]
            name = section.__name__.replace("_", " ")
            print(f"{name:<24}{len(tried):>7}{len(tried) - len(missed):>7}{len(missed):>6}", flush=True)
            failed += [f"{name}: {what}" for what in missed]
        logged = program.logged()
    for line in failed:
        print(f"did not hold: {line[:300]}")
    if failed and logged:
        print(f"the program's log ends with:\n{logged[-3000:]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
