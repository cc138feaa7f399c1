"""What a seed decides on: the weather, and what users do."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.simulation.network import Weather
from tests.simulation.user import Workload
from txtcmu.volume.head import Geometry
from txtcmu.volume.tuning import Tuning

__all__ = ["BLOCK", "GEOMETRY", "LARGEST", "weather_of", "workload_of"]

GEOMETRY: Final = Geometry(batch_blocks=16, leaf_blocks=64)
#: Sectors of a block, and of the largest disk.
BLOCK: Final = 8
LARGEST: Final = 400 * BLOCK


def weather_of(random: Random) -> Weather:
    """Return how often what goes wrong."""
    rough = random.choice((0.5, 1.0, 1.0, 2.0))
    confused = random.random() < 0.5
    return Weather(
        slow=0.06 * rough,
        late=0.02 * rough,
        repeated=0.01 * rough,
        lost=0.01 * rough,
        unanswered=0.02 * rough,
        doubtful=0.3 if confused else 0.03,
        refused=0.03 * rough,
        forbidden=0.001 * rough,
        damaged=0.03 * rough,
        stale=0.4 if confused else 0.05,
        forgotten=0.2,
        verified=random.random() < 0.4,
    )


def workload_of(random: Random) -> Workload:
    """Return what users do."""
    return Workload(
        depth=random.choice((1, 4, 8, 16)),
        think=random.choice((0.01, 0.05, 0.2)),
        hot=BLOCK * random.choice((8, 24, 60)),
        largest=LARGEST,
        weights={
            "write": 40,
            "write, flush": 5,
            "read": 25,
            "discard": 5,
            "write zeroes": 4,
            "flush": random.choice((2, 8, 20)),
            "resize": 1,
        },
        tuning=Tuning(
            pending=random.choice((2, 4, 16)),
            flushes=random.choice((1, 2)),
            cache_blocks=random.choice((8, 64, 1024)),
            read_ahead_blocks=random.choice((8, 64)),
            checkpoint_objects=random.choice((3, 6, 12)),
        ),
    )
