"""Anomalies in a stream of two channels: learn from a quiet week, then watch step by step.

    python examples/anomaly.py --out watched

It makes its own data: a daily course with noise, values that are missing, and in the second week a
sensor that sticks and one that drifts away. Needs `pip install 'exlstm[ts]'`.
"""

import argparse
from pathlib import Path

import numpy as np

from exlstm.anomaly import XLSTMAnomalyDetector

DAY = 48  # steps
STUCK, DRIFT = slice(9 * DAY, 9 * DAY + 30), slice(12 * DAY, 13 * DAY)


def fortnight() -> np.ndarray:
    """(14 days, 2) in which two things go wrong in the second week."""
    generator = np.random.default_rng(0)
    phase = 2 * np.pi * np.arange(14 * DAY) / DAY
    x = np.stack([20 + 5 * np.sin(phase), 60 - 12 * np.sin(phase - 0.5)], axis=1)
    x += generator.normal(size=x.shape) * [0.4, 1.0]
    x[generator.random(x.shape) < 0.02] = np.nan
    x[STUCK, 0] = 26.0
    x[DRIFT, 1] += np.linspace(0, 40, DAY)
    return x


def watch(max_epochs: int, out: Path | None) -> tuple[XLSTMAnomalyDetector, list[int]]:
    """The detector, and the steps of the second week at which it gave the alarm."""
    x = fortnight()
    quiet, watched = x[: 7 * DAY], x[7 * DAY :]
    detector = XLSTMAnomalyDetector(
        span=DAY, false_alarm_rate=0.02, half_life=4, max_epochs=max_epochs, random_state=0
    )
    detector.fit(quiet)
    detector.start_stream(quiet)
    alarms = []
    for number, step in enumerate(watched, start=7 * DAY):
        if detector.score_next(step) > detector.threshold_:
            alarms.append(number)
    if out is not None:
        detector.save(out)
        detector.plot(x).savefig(out / "fortnight.png", dpi=150)
    return detector, alarms


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a new folder for the detector and a picture")
    arguments = parser.parse_args()
    _, alarms = watch(arguments.max_epochs, arguments.out)
    for name, steps in {"stuck": STUCK, "drift": DRIFT}.items():
        inside = [step for step in alarms if steps.start <= step < steps.stop]
        print(f"{name} from step {steps.start}: first alarm at {inside[0] if inside else 'none'}")
    late = DAY  # for so long predictions from within an anomaly are compared with what follows it
    false = [
        step
        for step in alarms
        if not any(each.start <= step < each.stop + late for each in (STUCK, DRIFT))
    ]
    print(f"{len(false)} alarms elsewhere")
