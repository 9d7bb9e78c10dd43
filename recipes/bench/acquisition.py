"""How fast alprune's distance-based acquisition is, beside scikit-activeml's, and its memory.

    python recipes/bench/acquisition.py                       # 50,000 x 512, 50 acquired
    python recipes/bench/acquisition.py --points 1000000 --dimensions 128 --no-peers

Both get the same embeddings and probabilities, ready-made, so that only the choice is timed.
Peers are timed where scikit-activeml is installed. The ones whose time or memory grows with the
square of the points are timed at fewer points (--peer-points), and so is ours for the ratio.
`--only k-center,badge` runs some; `--json FILE` keeps the figures.

Measured, one thread of an Intel Xeon at 2.3 GHz which other work shared, torch 2.15,
scikit-activeml 1.0.1: theirs takes 177 times as long for badge (137 s against 0.8), 8.4 for clue,
2.6 for falcun, 3.0 for k-center, at 50,000 x 512; 2.7 for probcover at 5,000 and 9.9 for
typiclust at 10,000 (ours alone at 50,000: 78 and 8 s). 1,000,000 x 128: k-center 19 s and 1.88 GB
at its peak, badge 15 s and 1.67 GB, typiclust 11 s and 1.94 GB, each with 0.5 GB of embeddings
and all of Python in it.
"""

import argparse
import json
import platform
from types import SimpleNamespace

import torch
from measuring import peak_bytes, timed

from alprune.acquisition import Evidence, acquire
from alprune.acquisition.badge import badge
from alprune.acquisition.clustering import clue, cluster_margin
from alprune.acquisition.core_set import k_center
from alprune.acquisition.falcun import falcun
from alprune.acquisition.probcover import probcover
from alprune.acquisition.typiclust import typiclust

FUNCTIONS = {
    "badge": badge,
    "clue": clue,
    "cluster-margin": cluster_margin,
    "falcun": falcun,
    "k-center": k_center,
    "probcover": probcover,
    "typiclust": typiclust,
}
# Points at which the peer answers within about a minute and 16 GB.
PEER_POINTS = {"probcover": 5000, "typiclust": 10_000}


class Ready(SimpleNamespace):
    """Evidence that is there already."""

    gradient_factors = Evidence.gradient_factors


def make_evidence(points: int, dimensions: int, classes: int, labelled: int) -> Ready:
    """Embeddings as after a ReLU, in ten clusters a class, and a linear layer's probabilities."""
    draws = torch.Generator().manual_seed(0)
    corners = torch.randn(10 * classes, dimensions, generator=draws)

    def rows(count: int) -> torch.Tensor:
        result = torch.randn(count, dimensions, generator=draws)
        at = torch.randint(len(corners), (count,), generator=draws)
        for part in range(0, count, 50_000):
            result[part : part + 50_000] += corners[at[part : part + 50_000]]
        return result.relu_()

    embeddings, known = rows(points), rows(labelled)
    weights = torch.randn(dimensions, classes, generator=draws) * 4 / dimensions**0.5
    return Ready(
        embeddings=embeddings,
        labelled_embeddings=known,
        probabilities=(embeddings @ weights).softmax(1),
        candidates=torch.arange(points),
        labelled=torch.arange(points, points + labelled),
        labels=(known @ weights).argmax(1),
        classes=classes,
        device=embeddings.device,
    )


def peer(name: str, evidence: Ready, count: int):
    """Return scikit-activeml's counterpart as a function without arguments, or None."""
    import numpy as np
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge, Clue, CoreSet, Falcun, ProbCover, TypiClust

    probabilities = evidence.probabilities.numpy()

    class Fixed(SkactivemlClassifier):
        """A classifier whose predictions for the candidates are known."""

        def fit(self, x, y, sample_weight=None):
            return self

        def predict_proba(self, x):
            return probabilities

    x = torch.cat([evidence.embeddings, evidence.labelled_embeddings]).numpy()
    y = np.full(len(x), np.nan)
    y[len(evidence.embeddings) :] = evidence.labels.numpy()
    clf = Fixed(classes=list(range(evidence.classes)))
    fixed = {"clf": clf, "fit_clf": False}
    strategies = {
        "badge": (Badge(random_state=0), fixed),
        "clue": (Clue(random_state=0), {"estimator": clf, "fit_estimator": False}),
        "falcun": (Falcun(random_state=0), fixed),
        "k-center": (CoreSet(random_state=0), {}),
        "probcover": (ProbCover(n_classes=evidence.classes, random_state=0), {}),
        "typiclust": (TypiClust(random_state=0), {}),
    }
    if name not in strategies:
        return None
    strategy, more = strategies[name]
    return lambda: strategy.query(x, y, batch_size=count, **more)


def versions(peers: bool) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if peers:
        import skactiveml
        import sklearn

        found |= {"scikit-activeml": skactiveml.__version__, "scikit-learn": sklearn.__version__}
    return found


def measure(name: str, options: argparse.Namespace, peers: bool) -> dict[str, float | str]:
    def ours(evidence: Ready) -> float:
        generator = torch.Generator().manual_seed(0)
        return timed(lambda: acquire(FUNCTIONS[name], evidence, options.count, generator))[0]

    sizes = (options.dimensions, options.classes, options.labelled)
    ours(make_evidence(500, *sizes))  # imports and start-up are not what is asked
    evidence = make_evidence(options.points, *sizes)
    row: dict[str, float | str] = {"function": name, "before_gb": peak_bytes() / 1e9}
    row["ours_s"] = ours(evidence)
    row["peak_gb"] = peak_bytes() / 1e9
    if not peers:
        return row
    points = min(options.points, options.peer_points or PEER_POINTS.get(name, options.points))
    if points != options.points:
        evidence = make_evidence(points, *sizes)
    work = peer(name, evidence, options.count)
    if (warm := peer(name, make_evidence(500, *sizes), options.count)) is not None:
        warm()
    if work is not None:
        row |= {"peer_points": points, "ours_there_s": ours(evidence), "peer_s": timed(work)[0]}
        row["ratio"] = row["peer_s"] / row["ours_there_s"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default=",".join(FUNCTIONS))
    parser.add_argument("--peer-points", type=int, default=None)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers = not options.no_peers
    if peers:
        try:
            import skactiveml  # noqa: F401
        except ImportError:
            print("scikit-activeml is not installed: peers are left out")
            peers = False
    about = versions(peers) | {"threads": str(options.threads)}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"{options.points:,} x {options.dimensions}, {options.labelled} labelled, "
        f"{options.count} acquired"
    )
    rows = []
    for name in options.only.split(","):
        rows.append(measure(name, options, peers))
        shown = (f"{k} {v:,.2f}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items())
        print("  ".join(shown), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"about": about, "options": vars(options), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
