"""Fetch what servers need that cannot be installed: ``python -m tools.servers prepare``."""

import sys

from tools.guest.debian import PackageError
from tools.servers import radosgw


def main() -> int:
    """Do that, and return the exit status."""
    if sys.argv[1:] != ["prepare"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        radosgw.fetch()
    except PackageError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
