"""The same active-learning steps by alprune, by baal and by scikit-activeml with skorch.

    python recipes/bench/peers.py                                   # generated images
    python recipes/bench/peers.py --data npz:cifar10.npz --steps 10 --threads 2
    python recipes/bench/peers.py --data npz:cifar10.npz --budget 600 --threads 1
    python recipes/bench/peers.py --only baal --env ~/peers-venv --json peers.json   # in pieces

Makes a virtual environment that sees this one's packages (one torch for all), installs baal,
scikit-activeml and skorch there, and runs each library in a process of its own. All train the same
pruned network from the same weights, on the same first points, with SGD at one constant rate, the
same epochs, batch size and augmentation in fp32, score as many random candidates by entropy and
label as many of them. `alprune-own` is alprune with what it adds by default: a warm-up, a rate
that falls to zero, averaged weights. `wrapper` is the case of baal-org/baal#264: an epoch of
LeNet-5 over a set that is labelled whole, through baal's ActiveLearningDataset, on the plain data
set, and by alprune. Testing is not timed. `cpu` is the processor's time, of all threads: on a
machine with other work to do it tells more than the clock. With `--budget`, each
library runs as its documentation has it: baal as its example for CIFAR-10 (20 epochs from fresh
weights, SGD at 0.001, the whole pool scored, 100 a step), scikit-activeml with skorch's defaults
(10 epochs from fresh weights, SGD at 0.01), alprune as `alprune run`; by processor time, without
testing.

Measured with --data npz:cifar10.npz --threads 2, nothing else running, two cores of an Intel Xeon
at 2.3 GHz with AVX-512, torch 2.15, baal 2.1.0, scikit-activeml 1.0.1, skorch 1.4.0 (VGG-19, 90%
of the FLOPs removed, one seed, 7 minutes): alprune 24.9 s, alprune-own 26.1 s, baal 34.4 s (1.38
times as long: fit 1.23, score 1.98), scikit-activeml 30.1 s (1.21: 1.10, 1.64); accuracies 22.6,
37.0, 25.6 and 25.6%. So what the peers add on top of the arithmetic, which is the same, is no
factor of 3 with this learner. `wrapper`: alprune 9.6 s, baal 12.3 s on the plain data set and
12.9 s through its wrapper: the 17 times of the report are gone in baal 2.1.0.

Measured with --data npz:cifar10.npz --budget 300 --threads 1, by processor time, other work
beside, one seed: baal ended at 38.1% after 322 s with 1,200 labels, which alprune had passed after
73 s (36.7% after 58 s); scikit-activeml ended at 17.0% after 385 s, less than alprune's first test
after 24 s (32.5%); alprune ended at 62.9%.
"""

import argparse
import json
import os
import site
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

PEERS = ["baal", "scikit-activeml", "skorch"]
CONTENDERS = ["alprune", "alprune-own", "baal", "scikit-activeml", "wrapper"]
DEFAULTS = ["alprune", "baal", "scikit-activeml"]
RUN = Path(__file__).with_name("peers_run.py")


def environment(folder: Path) -> Path:
    """Make the environment, or find it made; return its interpreter."""
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    done = folder / "peers-installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        find = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        there = Path(
            subprocess.run(find, check=True, text=True, capture_output=True).stdout.strip()
        )
        # What is installed here (torch, alprune) is found there, behind what is installed there.
        ours = {sysconfig.get_path("purelib"), *site.getsitepackages()}
        lines = [f"import site; site.addsitedir({folder!r})" for folder in sorted(ours)]
        (there / "ours.pth").write_text("\n".join(lines) + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
        done.touch()
    return python


def run(python: Path, contender: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    threads = str(options["threads"])
    env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [str(python), str(RUN), json.dumps(options | {"contender": contender})]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print what is known, and how many times as long as alprune each peer takes."""
    versions: dict[str, str] = {}
    for result in results.values():
        versions |= result["versions"]
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    base = results.get("alprune")
    heads = ("fit", "score", "all", "cpu")
    print(" " * 16 + "".join(f"{head + ' s':>9}" for head in heads), end="")
    print("".join(f"{'x ' + head:>9}" for head in heads) + f"{'labelled':>10}{'test':>8}")
    for name, result in results.items():
        if name == "wrapper":
            continue
        times = [result[f"{head}_s"] for head in heads]
        row = f"{name:16}" + "".join(f"{value:>9.1f}" for value in times)
        for value, head in zip(times, heads, strict=True):
            row += f"{value / base[f'{head}_s']:>9.2f}" if base else " " * 9
        print(f"{row}{result['labelled']:>10}{result['test_accuracy']:>8.1%}")
    if wrapper := results.get("wrapper"):
        ours, plain, labelled = (
            wrapper[f"{name}_s"] for name in ("alprune", "baal_plain", "baal_labelled")
        )
        print(f"an epoch of LeNet-5 over {wrapper['points']} points, all labelled: ", end="")
        print(f"alprune {ours:.1f} s, baal {plain:.1f} s on the plain data set", end="")
        print(f" and {labelled:.1f} s through its wrapper ({labelled / plain:.1f} times)")


def show_curves(results: dict[str, dict[str, Any]]) -> None:
    """Print where each library ended, and when alprune was there."""
    ours = results.get("alprune", {"curve": []})["curve"]
    for name, result in results.items():
        spent, accuracy, labelled = result["curve"][-1]
        line = f"{name:16}{accuracy:>7.1%} with {labelled:,} labels after {spent:,.0f} s"
        reached = [first for first, ours_then, _ in ours if ours_then >= accuracy]
        if name != "alprune" and reached:
            line += f"; alprune after {reached[0]:,.0f} s, {spent / reached[0]:.1f} times sooner"
        print(line)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, help="virtual environment, made if it is not there")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CONTENDERS)}")
    parser.add_argument("--json", type=Path, help="keeps the results; earlier ones are added to")
    parser.add_argument(
        "--budget", type=float, help="processor seconds, for each library by its own defaults"
    )
    parser.add_argument("--data", default="synthetic", help="or npz:PATH of 32x32 colour images")
    parser.add_argument("--points", type=int, default=20_000, help="of the synthetic images")
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--method", default="3sp-ca")
    parser.add_argument("--initial", type=int, default=1000)
    parser.add_argument("--initial-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--query", type=int, default=50)
    parser.add_argument("--subset", type=int, default=2000, help="candidates scored a step")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=0, help="the peers' loader processes")
    parser.add_argument(
        "--channels-last", action="store_true", help="the peers' network too, as alprune's is"
    )
    return parser.parse_args()


def main() -> None:
    asked = parse()
    names = asked.only.split(",") if asked.only else DEFAULTS if asked.budget else CONTENDERS
    if unknown := set(names) - set(CONTENDERS):
        sys.exit(f"--only knows {', '.join(CONTENDERS)}; got {', '.join(sorted(unknown))}")
    kept = {name for name in ("env", "only", "json")}
    options = {name: value for name, value in vars(asked).items() if name not in kept}
    results: dict[str, dict[str, Any]] = {}
    if asked.json and asked.json.exists():
        earlier = json.loads(asked.json.read_text())
        if earlier["options"] != options:
            sys.exit(f"{asked.json} holds results for other options; give another file")
        results = earlier["results"]
    with tempfile.TemporaryDirectory() as temporary:
        python = environment(asked.env or Path(temporary) / "env")
        for name in names:
            results[name] = run(python, name, options)
            if asked.json:
                content = {"options": options, "results": results}
                asked.json.write_text(json.dumps(content, indent=2) + "\n")
    shown = {name: results[name] for name in CONTENDERS if name in results}
    (show_curves if asked.budget else show)(shown)


if __name__ == "__main__":
    main()
