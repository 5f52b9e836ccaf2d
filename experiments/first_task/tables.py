"""What was measured, as tables: accuracies of the maps, how well each statistic ranks them, what is advised."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau, spearmanr

from experiments.commands import Record
from experiments.first_task.measure import MAPS, READOUTS, SCORES, WEIGHTED

ALWAYS = ("ranpac", "F+M", "1 1 1 1", "0.3 1 1 1")
"""Maps beside which statistics have to stand: one of them for every stream."""
Table = tuple[str, list[str], list[list[str]]]
"""Title, heads of the columns, rows."""


def agreement(scores: Float[np.ndarray, "k"], accuracies: Float[np.ndarray, "k"]) -> tuple[float, float, float]:
    """Spearman's ρ and Kendall's τ of scores with accuracies, and what choosing by the scores loses.

    Maps that share the largest score count with their mean accuracy. Correlations are nan where all scores are equal.

    Example:
        >>> [round(float(x), 3) for x in agreement(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.75, 0.625]))]
        [0.5, 0.333, 0.125]
    """
    loss = float(accuracies.max() - accuracies[scores == scores.max()].mean())
    if np.ptp(scores) == 0:
        return float("nan"), float("nan"), loss
    return spearmanr(scores, accuracies).statistic, kendalltau(scores, accuracies).statistic, loss


def accuracies(record: Record) -> Float[np.ndarray, "k"]:
    """A_T of every map, in percent."""
    return np.array([100 * record["maps"][name]["accuracy"] for name in MAPS])


def signed(scores: Record, statistic: str) -> Float[np.ndarray, "k"]:
    """A statistic of every map, larger always better."""
    return SCORES[statistic][0] * np.array([scores[name][statistic] for name in MAPS])


def by_order(record: Record, statistic: str) -> Float[np.ndarray, "orders 3"]:
    """`agreement` of a statistic of the first task, order by order."""
    final = accuracies(record)
    return np.array([agreement(signed(order["scores"], statistic), final) for order in record["orders"]])


def after_all(record: Record, statistic: str) -> tuple[float, float, float]:
    """`agreement` of a statistic of all training images."""
    scores = {name: one["scores"] for name, one in record["maps"].items()}
    return agreement(signed(scores, statistic), accuracies(record))


def of_readouts(record: Record) -> dict[str, str]:
    """Readouts to the map that each one ends with: `multilevel` with that which tells most left-out images right."""
    chosen = max(WEIGHTED, key=lambda name: record["maps"][name]["left_out"])
    return {name: name if name in MAPS else chosen for name in READOUTS}


def tables(records: Sequence[Record]) -> Iterator[Table]:
    """The tables of a page."""
    heads = [record["stream"] for record in records]
    yield "final accuracy A_T of each map, %", ["map", *heads], list(_final(records))
    yield (
        "from the first task alone: Spearman's ρ with A_T over maps, points of A_T lost by the best score (most)",
        ["statistic", *heads, "points lost, mean"],
        [*(_first(records, name, 0) for name in SCORES), *(_always(records, name) for name in ALWAYS)],
    )
    yield (
        "from all training images: Spearman's ρ with A_T over maps; points of A_T lost by the best score",
        ["statistic", *heads],
        [
            [title, *(f"{found[0]:.2f}; {found[2]:.1f}" for found in (after_all(record, name) for record in records))]
            for name, (_, title) in SCORES.items()
            if name in records[0]["maps"]["ridge"]["scores"]
        ],
    )
    yield "readouts: A_T, %, and what the first task advises", ["readout", *heads], list(_readouts(records))


def more_tables(records: Sequence[Record]) -> Iterator[Table]:
    """What a page has no room for."""
    title = "from the first task alone: Kendall's τ with A_T over maps, points of A_T lost by the best score (most)"
    heads = ["statistic", *(record["stream"] for record in records), "points lost, mean"]
    yield title, heads, [_first(records, name, 1) for name in SCORES]


def _final(records: Sequence[Record]) -> Iterator[list[str]]:
    for i, name in enumerate(MAPS):
        row = [name]
        for record in records:
            final = accuracies(record)
            best = list(MAPS)[int(final.argmax())]
            error = 100 * record["error_of_difference"][best][name]
            row.append(f"{final[i]:.1f}" + (f" ({error:.1f})" if name != best else ""))
        yield row


def _first(records: Sequence[Record], statistic: str, which: int) -> list[str]:
    """A statistic of the first task on every stream: ρ or τ ± deviation over class orders; loss (most)."""
    row, losses = [SCORES[statistic][1]], []
    for record in records:
        found = by_order(record, statistic)
        ranked = found[~np.isnan(found[:, which]), which]  # no correlation where all maps have one score
        correlation = f"{ranked.mean():.2f} ± {ranked.std():.2f}" if len(ranked) else "–"
        row.append(f"{correlation}; {found[:, 2].mean():.1f} ({found[:, 2].max():.1f})")
        losses.append(found[:, 2].mean())
    return [*row, f"{np.mean(losses):.1f}"]


def _always(records: Sequence[Record], name: str) -> list[str]:
    """What one map for all streams loses."""
    losses = [accuracies(record).max() - 100 * record["maps"][name]["accuracy"] for record in records]
    return [f"always {name}", *(f"{loss:.1f}" for loss in losses), f"{np.mean(losses):.1f}"]


def _readouts(records: Sequence[Record]) -> Iterator[list[str]]:
    final = [
        {name: 100 * record["maps"][of]["accuracy"] for name, of in of_readouts(record).items()} for record in records
    ]
    for name in READOUTS:
        yield [name, *(f"{one[name]:.1f}" for one in final)]
    advised = [[order["advised"] for order in record["orders"]] for record in records]
    yield [
        "advised, of all orders",
        *(", ".join(f"{name} {names.count(name)}" for name in READOUTS if name in names) for names in advised),
    ]
    lost = [
        np.array([max(one.values()) - one[name] for name in names]) for one, names in zip(final, advised, strict=True)
    ]
    yield ["points lost by the advice (most)", *(f"{loss.mean():.1f} ({loss.max():.1f})" for loss in lost)]
    yield ["standard error of ranpac's distance from multilevel", *(_error(record) for record in records)]


def _error(record: Record) -> str:
    maps = of_readouts(record)
    return f"{100 * record['error_of_difference'][maps['multilevel']][maps['ranpac']]:.1f}"
