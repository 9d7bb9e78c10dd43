"""Prune one network of every family of timm and every classifier of torchvision, by half.

    python recipes/pruning/sweep.py outputs/sweep.jsonl            # resumes where it stopped
    python recipes/pruning/sweep.py outputs/sweep.jsonl --table    # as the README shows it
    python recipes/pruning/sweep.py outputs/sweep.jsonl --only timm:vit_tiny_patch16_224

Each network is pruned in a process of its own, with a bound on its processor time, its time and
its memory. Seconds are processor time on one core of a machine that other work may share. It runs
at the smallest of 64, 96, 128, 160 and 224 pixels that it takes, or at its published size. Half of
its FLOPs are asked of 3SP; then the pruned network has to give finite logits, take a training
step, and weigh what the search counted. Beside it Torch-Pruning's BasePruner removes half the
channels of a fresh copy with the settings of its README, where it is installed.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

ASKED = 0.5
CLASSES = 10
PRELOADED = ["timm", "torch_pruning", "alprune.models.construct", "alprune.pruning.api"]
WAIT = 10  # seconds of waiting for each second of processor time, on a busy machine
SIZES = (64, 96, 128, 160, 224)

TIMM = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny
coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convformer_s18 convit_tiny convmixer_768_32
convnext_atto convnextv2_atto crossvit_9_240 cs3darknet_focus_s cspdarknet53 cspnext_tiny csatv2
davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 deit_tiny_patch16_224
densenetblur121d dla46_c dla60_res2net dpn48b eca_botnext26ts_256 eca_nfnet_l0 eca_resnext26ts
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_es
efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224
fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b focalnet_tiny_srf gcresnext26ts gcvit_xxtiny gernet_s
ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmixer_12_224 gmlp_ti16_224 halonet26t hardcorenas_a
hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
inception_v4 lambda_resnet26t lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s
levit_conv_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 mixer_s32_224 mixnet_s
mobilenetv2_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075 mobileone_s0 mobilevit_xxs
mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nf_resnet26 nfnet_l0 pit_ti_224
poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnetz_005 repghostnet_050 repvgg_a0 repvit_m0_9
res2net50_14w_8s res2next50 resmlp_12_224 resnest14d resnet10t resnet50_gn resnetv2_18
resnetv2_50d_gn resnetv2_50x1_bit rexnet_100 rexnetr_100 selecsls42 sequencer2d_s shvit_s1
skresnet18 starnet_s050 swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224
swinv2_cr_tiny_224 swinv2_tiny_window8_256 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m
twins_pcpvt_small twins_svt_small visformer_tiny vit_relpos_small_patch16_224
vit_srelpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224
volo_d1_224 xception41 xcit_nano_12_p16_224
""".split()


def torchvisions() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def smallest(name: str) -> tuple[Any, tuple[int, int, int]]:
    """Build a network for the smallest images that it takes in both modes."""
    from alprune.errors import ModelError
    from alprune.models import build, published_shape

    published = published_shape(name)
    for size in (*SIZES, published[1]):
        try:
            model = build(name, CLASSES, (3, size, size), seed=0)
            model.train()(_batch((3, size, size))[0])
        except Exception as error:
            if size == published[1]:
                raise ModelError(f"does not run at {size} pixels: {error}") from error
        else:
            return model, (3, size, size)
    raise AssertionError


def _batch(shape: tuple[int, int, int]) -> tuple[Any, Any]:
    import torch

    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(4) % CLASSES


def by_alprune(name: str, normalised: str) -> dict[str, Any]:
    """Prune a network by half, or as far as it goes, and try what comes out."""
    import re

    import torch

    from alprune import prune
    from alprune.errors import PruneError

    model, shape = smallest(name)
    batch = _batch(shape)
    row: dict[str, Any] = {"pixels": shape[1]}
    asked = ASKED
    begin = time.process_time()
    try:
        pruned = prune(model, batch=batch, flops_reduction=asked, normalised=normalised)
    except PruneError as error:
        most = re.search(r"the most is (-?[0-9.]+[0-9])", str(error))
        if most is None:
            raise
        row["most"] = float(most[1])
        asked = max(0.0, row["most"] - 0.01)
        begin = time.process_time()
        pruned = prune(model, batch=batch, flops_reduction=asked, normalised=normalised)
    row["seconds"] = time.process_time() - begin
    row |= {"cut": pruned.flops_reduction, "pinned_share": pruned.pinned_share}
    row["pinned"] = list(pruned.pinned)
    logits = pruned.model.train()(batch[0])
    torch.nn.functional.cross_entropy(logits, batch[1]).backward()
    right = logits.shape == (4, CLASSES) and bool(logits.isfinite().all())
    row["outcome"] = "pruned" if right else "wrong logits"
    if not asked <= pruned.flops_reduction <= asked + 0.1:
        row["outcome"] = f"cut {pruned.flops_reduction:.2f} for {asked:.2f}"
    return row


def by_torch_pruning(name: str, normalised: str) -> dict[str, Any]:
    """Remove half of the channels with Torch-Pruning, the classifier aside."""
    import torch
    import torch_pruning as tp
    from torch import nn

    from alprune.models.cost import cost

    model, shape = smallest(name)
    images, labels = _batch(shape)
    before = cost(model, images).macs
    model.eval()
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    pruner = tp.pruner.BasePruner(
        model,
        images,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    pruner.step()
    logits = model.train()(images)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    cut = 1 - cost(model, images).macs / before
    return {"torch_pruning": f"cut {cut:.2f}" if cut > 0 else "prunes nothing"}


def in_a_process(
    task: Any, name: str, seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Run a task with a time-out and a bound on its memory; report how it ended."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    limits = (options.gigabytes, options.normalised, seconds)
    process = context.Process(target=_bounded, args=(task, name, limits, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(WAIT * seconds) else {"failed": "not ended in time"}
    except EOFError:
        found = {"failed": "killed: out of time or memory"}
    process.kill()
    process.join()
    return found


def _bounded(task: Any, name: str, limits: tuple[float, str, float], report: Any) -> None:
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    size = int(limits[0] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    seconds = int(limits[2])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    try:
        report.send(task(name, limits[1]))
    except BaseException as error:
        report.send(
            {
                "failed": f"{type(error).__name__}: {error}"[:600],
                "where": traceback.format_exc()[-600:],
            }
        )


def sweep(names: list[str], path: Path, options: argparse.Namespace) -> None:
    """Prune what is missing: all networks with alprune first, then with Torch-Pruning."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    rows = read(path)
    with path.open("a") as file:

        def note(row: dict[str, Any], outcome: str) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row["name"], outcome, flush=True)

        for name in names:
            if not rows.get(name, {}).keys() & {"outcome", "failed"}:
                row = {"name": name, **in_a_process(by_alprune, name, options.seconds, options)}
                note(row, row.get("outcome") or row["failed"][:200])
        for name in names if options.torch_pruning_seconds else ():
            if "torch_pruning" not in rows.get(name, {}):
                seconds = options.torch_pruning_seconds
                beside = in_a_process(by_torch_pruning, name, seconds, options)
                outcome = beside.get("torch_pruning") or beside["failed"].split(":")[0]
                note({"name": name, "torch_pruning": outcome}, f"Torch-Pruning: {outcome}")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Read the rows by name; a later line of a name adds to its earlier ones."""
    rows: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        rows.setdefault(row["name"], {}).update(row)
    return rows


def table(rows: list[dict[str, Any]], of: int) -> str:
    """Write the rows as Markdown, and count them."""
    lines = [
        "| architecture | pixels | cut asked | cut got | pinned | seconds, under load "
        "| Torch-Pruning |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: row["name"]):
        if "cut" not in row:
            reason = row["failed"].split(". ")[0][:90].replace("|", "/")
            cells = ["", f"{ASKED:.0%}", reason, "", ""]
        else:
            most = f" (most {row['most']:.0%})" if "most" in row else ""
            cells = [
                str(row["pixels"]),
                f"{ASKED:.0%}",
                f"{row['cut']:.1%}{most}",
                f"{row['pinned_share']:.0%}",
                f"{row['seconds']:.1f}",
            ]
        beside = row.get("torch_pruning", "not run")
        lines.append(f"| {' | '.join([row['name'], *cells, beside])} |")
    half = ASKED - 0.0005  # as the table rounds
    reached = sum("most" not in row and row.get("cut", 0) >= half for row in rows)
    nearly = sum("most" not in row and 0 < row.get("cut", 0) < half for row in rows)
    partly = sum("most" in row for row in rows)
    loose = sum(row.get("pinned_share", 1.0) <= 0.1 for row in rows)
    tried = [row["torch_pruning"] for row in rows if "torch_pruning" in row]
    lines.append("")
    lines.append(
        f"{len(rows)} of {of} networks: {reached} pruned by {ASKED:.0%} and more, {partly} as far "
        f"as they go, {nearly} by less than asked, {len(rows) - reached - partly - nearly} not; "
        "at most 10% of the channels pinned in "
        f"{loose}. Torch-Pruning prunes {sum(t.startswith('cut') for t in tried)} of {len(tried)}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="JSON lines, one for each network")
    parser.add_argument("--only", nargs="*", help="these networks instead of all")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="processor time for each network"
    )
    parser.add_argument(
        "--torch-pruning-seconds", type=float, default=60.0, help="the same for Torch-Pruning"
    )
    parser.add_argument("--gigabytes", type=float, default=6.0, help="memory of each process")
    parser.add_argument("--normalised", default="follow", help="as prune takes it")
    parser.add_argument("--table", action="store_true", help="print the table of the rows so far")
    options = parser.parse_args()
    names = [f"timm:{name}" for name in TIMM]
    names += [f"torchvision:{name}" for name in torchvisions()]
    if options.table:
        rows = [row for row in read(options.path).values() if len(row) > 2]
        print(table(rows, len(names)))
        return
    options.path.parent.mkdir(parents=True, exist_ok=True)
    sweep(options.only or names, options.path, options)


if __name__ == "__main__":
    sys.exit(main())
