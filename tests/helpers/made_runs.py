"""Run folders as alprune writes them, with figures that are easy to check by hand."""

import json

OPTIONS = {"dataset": "digits", "model": "lenet-300-100", "acquisition": "entropy"}
WIDTHS = {"dense": {"fc1": 300, "fc2": 100}, "3sp-ca": {"fc1": 61, "fc2": 40}}


def write_run(
    path,
    method="dense",
    seed=0,
    points=((10, 0.3), (20, 0.5), (30, 0.6)),
    end="budget",
    elapsed=None,
    config=None,
    start=None,
    labels=(),
    warnings=(),
):
    """Write a run whose steps' fits end at given times; a step takes a second more to score.

    `points` are (seconds, accuracy or None), one a step; step k trains on 100 + 10 k points.
    """
    path.mkdir(parents=True, exist_ok=True)
    options = OPTIONS | {"method": method, "seed": seed} | (config or {})
    first = {"config": options, "hardware": "a machine", "precision": "float32"}
    first |= {"versions": {"alprune": "0.1.0"}, "data_digest": "d"} | (start or {})
    events = [{"event": "start", "elapsed_s": 0.0} | first]
    left = 1.0 if method == "dense" else 0.25
    events.append(
        {"event": "prune", "elapsed_s": 0.0, "macs_before": 266200, "params_before": 266610}
        | {"macs_after": round(266200 * left), "params_after": round(266610 * left)}
        | {"widths": WIDTHS["dense" if method == "dense" else "3sp-ca"], "sparsity": 0.0}
    )
    events += [{"event": "warning", "elapsed_s": 0.0, "message": told} for told in warnings]
    before = 0
    for step, (fitted_s, accuracy) in enumerate(points):
        events.append(
            {"event": "step", "elapsed_s": fitted_s + 1, "step": step, "labelled": 100 + 10 * step}
            | {"acquired": [], "test_accuracy": accuracy, "fitted_s": fitted_s, "scored": 200}
            | {"epochs": 2.0, "train_s": fitted_s - before, "score_s": 0.75, "acquire_s": 0.25}
            | {"eval_s": 2.0}
        )
        before = fitted_s + 1
    elapsed = elapsed if elapsed is not None else (points[-1][0] + 1 if points else 0)
    if end is not None:
        last = [accuracy for _, accuracy in points if accuracy is not None]
        events.append(
            {"event": "end", "elapsed_s": elapsed, "reason": end, "labelled": 120, "steps": 2}
            | {"test_accuracy": last[-1] if last else None}
        )
    (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    rows = ["index,label,class,step", *(f"{i},{y},{name},{s}" for i, y, name, s in labels)]
    (path / "labels.csv").write_text("\n".join(rows) + "\n")
    return path


def write_comparison(folder):
    """Write dense and 3sp-ca of three seeds each: 3sp-ca is twice as fast, and more accurate."""
    for seed in range(3):
        up = seed / 100
        slow = [(10, 0.3 + up), (20, 0.4 + up), (30, 0.5 + up)]
        fast = [(5, 0.3 + up), (10, 0.4 + up), (15, 0.5 + up), (22, 0.64 + up), (30, 0.7 + 2 * up)]
        write_run(folder / f"dense-seed{seed}", "dense", seed, slow, config={"lr": 0.02})
        write_run(folder / f"3sp-ca-seed{seed}", "3sp-ca", seed, fast, config={"lr": 0.05})
    return folder
