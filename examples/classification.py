"""Patients from irregular laboratory values: who gets worse, how soon is it known, and from what.

    python examples/classification.py --patients 300 --picture why.png

The patients are made up: creatinine and potassium, each measured at some visits only, at irregular
times. Sick patients' creatinine rises by the day. With real ones, `frame` is a table of the same
form.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from exlstm.classify import (
    XLSTMClassifier,
    classification_scores,
    plot_attribution,
    records_from_frame,
)


def patients(number: int, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """A long table of visits, and the class of each patient."""
    rng = np.random.default_rng(seed)
    rows, sick = [], rng.random(number) < 0.25
    for patient in range(number):
        days = np.cumsum(rng.exponential(rng.choice([1.0, 4.0]), size=rng.integers(6, 20)))
        slope = 0.06 if sick[patient] else 0.0
        creatinine = rng.normal(1.0, 0.2) + slope * days + 0.05 * rng.normal(size=len(days))
        potassium = rng.normal(4.2, 0.3, size=len(days))
        for day, *values in zip(days, creatinine, potassium, strict=True):
            seen = rng.random(2) < (0.8, 0.5)
            rows.append((patient, day, *np.where(seen, values, np.nan)))
    frame = pd.DataFrame(rows, columns=["id", "time", "creatinine", "potassium"])
    return frame, pd.Series(np.where(sick, "worse", "stable"))


def main() -> None:
    """Train, score, and explain one patient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--picture", help="write why one patient was called worse, as PNG or SVG")
    arguments = parser.parse_args()

    frame, labels = patients(arguments.patients)
    records = records_from_frame(frame)
    X, y = list(records.values()), labels.loc[list(records)].to_numpy()
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, stratify=y, random_state=0
    )
    classifier = XLSTMClassifier(
        d_model=16, max_epochs=arguments.epochs, early=True, calibrate=True, random_state=0
    ).fit(X_train, y_train)

    scores = classification_scores(y_test, classifier.predict_proba(X_test), classifier.classes_)
    print(", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    steps = classifier.predict_proba_steps(X_test)
    for visit in (1, 3, 6):  # every patient has as many
        called = classifier.classes_[steps[:, visit - 1].argmax(1)]
        recall = [np.mean(called[y_test == name] == name) for name in classifier.classes_]
        print(f"after {visit} visits: balanced accuracy {np.mean(recall):.3f}")

    worst = int(
        classifier.predict_proba(X_test)[:, list(classifier.classes_).index("worse")].argmax()
    )
    why = classifier.attribute([X_test[worst]], ["worse"])
    for name, added in zip(why.names, why.parts[0].sum(0), strict=True):
        print(f"{name} adds {added:+.2f} to the logit of `worse`")
    if arguments.picture:
        plot_attribution(why, X_test[worst].values).savefig(arguments.picture)


if __name__ == "__main__":
    main()
