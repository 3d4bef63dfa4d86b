"""The tables of forecasts, anomalies and heartbeats."""

from __future__ import annotations

from typing import Any

from markdown_parts import source_above, table


def forecasting(document: dict[str, Any]) -> str:
    """Figures by horizon and over all, of the rate that is best on the validation part.

    Means over runs, but of coverage the largest miss: of a quantile's share, of any run.
    """
    rows = document["results"]["rows"]
    horizons = sorted({row["horizon"] for row in rows})
    measures = ("MSE", "MSE of the median", "MAE", "WQL", "coverage is off by", "seconds")
    lines = []
    for measure in measures:
        for model in dict.fromkeys(row["model"] for row in rows):
            runs = [_chosen(rows, model, horizon) for horizon in horizons]
            if not all(runs) or measure not in _figures(runs[0][0]):
                continue
            figures = [[_figures(run)[measure] for run in found] for found in runs]
            means = [max(each) if "off" in measure else sum(each) / len(each) for each in figures]
            whole = max(means) if "off" in measure else sum(means) / len(means)
            form = ".0f" if measure == "seconds" else ".3f"
            cells = [f"{figure:{form}}" for figure in (*means, whole)]
            lines.append([measure, model, str(len(runs[0])), *cells])
    published = "; ".join(
        f"{name} {figures['MSE']:.3f}" for name, figures in document["results"]["published"].items()
    )
    return (
        f"{table(['', 'model', 'runs', *map(str, horizons), 'all'], lines)}\n"
        f"Published means of the MSE, same protocol: {published}.\n\n"
        f"({source_above(document, 'forecasting')})"
    )


def _chosen(rows: list[dict[str, Any]], model: str, horizon: int) -> list[dict[str, Any]]:
    """The runs of a model, all of the rate whose first is best on the validation part."""
    found = [row for row in rows if (row["model"], row["horizon"]) == (model, horizon)]
    if not found or "rate" not in found[0]:
        return found
    first = [row for row in found if row["seed"] == 0]
    rate = min(first, key=lambda row: row["validation"])["rate"]
    return [row for row in found if row["rate"] == rate]


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """Those of a run, the coverage of quantiles 0.1 .. 0.9 as its largest miss."""
    if "coverage" not in row:
        return row
    misses = [abs(share - 0.1 * number) for number, share in enumerate(row["coverage"], start=1)]
    return row | {"coverage is off by": max(misses)}


def anomalies(document: dict[str, Any]) -> str:
    """VUS-PR and F1 of the methods at each half-life, with the range over seeds."""
    settings, rows = document["results"]["settings"], document["results"]["rows"]
    half_lives = settings["half_lives"]
    text = ""
    for figure, title in (("vus_pr", "VUS-PR"), ("f1", "best F1 of steps, not point-adjusted")):
        lines = []
        for row in rows:
            cells = []
            for number, mean in enumerate(row[figure]):
                seeds = [means[number] for means in row[f"{figure}_of_seeds"]]
                spread = f" ({min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else ""
                cells.append(f"{mean:.3f}{spread}")
            lines.append([row["row"], str(len(row["seeds"])), *cells])
        heads = [title, "seeds", *(f"half-life {each}" for each in half_lives)]
        text += f"{table(heads, lines)}\n"
    return (
        f"Means over {len(settings['files'])} files, then over seeds (least to most); VUS-PR with "
        f"buffers up to {settings['buffer']} steps.\n\n{text}"
        f"({source_above(document, 'anomalies')})"
    )


def heartbeats(document: dict[str, Any]) -> str:
    results = document["results"]
    setup, methods = results["setup"], {}
    for row in results["rows"]:
        methods.setdefault(row["method"], []).append(row)
    num_seeds = min(map(len, methods.values()))  # splits that all methods have seen
    scores = {
        "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "accuracy": "accuracy",
        "calibration_error": "calibration error",
    }  # fmt: skip
    text = f"| | {' | '.join(scores.values())} |\n|---|{'---|' * len(scores)}\n"
    for method, rows in methods.items():
        cells = []
        for score in scores:
            found = [row[score] for row in rows[:num_seeds] if score in row]
            spread = f"{min(found):.3f} to {max(found):.3f}" if found else ""
            cells.append(f"{sum(found) / num_seeds:.3f} ({spread})" if found else "")
        text += f"| {method} | {' | '.join(cells)} |\n"
    members = ", ".join(f"{number}" for number in setup["members"].values())
    chosen = "; ".join(
        f"{name} {', '.join(f'{field} {value}' for field, value in choice['chosen'].items())}"
        for name, choice in results["choices"].items()
    )
    return (
        f"{text}\n{sum(setup['members'].values())} heartbeats in classes of {members}; five "
        f"stratified folds, mean and range over {num_seeds} splits. Networks: the mean of "
        f"{setup['networks']}. Chosen before: {chosen}.\n\n"
        f"({source_above(document, 'heartbeats')})"
    )
