"""Attackers on data whose answer is known; training that goes on; cache and processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cpmae.evaluation import attack_network, attack_volume, attackers
from cpmae.evaluation.agreement import compare, flip_figures, method_table, structure_table
from cpmae.evaluation.attack_network import NetworkSettings
from cpmae.evaluation.metrics import recognise
from cpmae.evaluation.work import Arrays, Cache, Failure, run_all

RNG = np.random.default_rng(0)
TINY = NetworkSettings(steps=40, batch=8, width=4, pixels=32)


def heads(count: int, seed: int) -> list[Arrays]:
    """Unrelated heads as the volume attacker sees them: smooth noise and smooth depths."""
    rng = np.random.default_rng(seed)
    depth = rng.normal(100, 10, (count, 500)).astype(np.float32)
    depth[:, :50] = np.nan
    outside = rng.normal(size=(count, 8, 8, 8)).astype(np.float16)
    return [{"outside": o, "depth": d, "brain": o} for o, d in zip(outside, depth, strict=True)]


def again(head: Arrays, seed: int) -> Arrays:
    """The same head in another scan: other gain, noise, moved 3 mm."""
    rng = np.random.default_rng(seed)
    outside = 2 * head["outside"] + 1 + rng.normal(0, 0.5, head["outside"].shape)
    return {"outside": outside, "depth": head["depth"] + 3 + rng.normal(0, 1, 500), "brain": outside}


@pytest.mark.parametrize("attacker", ["volume", "surface", "brain"])
def test_volume_attackers_find_the_same_head_and_guess_among_unrelated_ones(attacker: str) -> None:
    gallery = heads(60, 1)
    same = recognise(attackers.scores(attacker, [again(h, i) for i, h in enumerate(gallery)], gallery)[0])
    assert same.rank1 == 1 and same.auc == 1 and same.eer == 0
    unrelated = recognise(attackers.scores(attacker, heads(60, 2), gallery)[0])
    assert unrelated.rank1_ci[0] <= unrelated.chance <= unrelated.rank1_ci[1]
    assert 0.4 < unrelated.auc < 0.6


def test_a_head_of_which_nothing_is_left_is_at_chance() -> None:
    gallery = heads(20, 1)
    gone: list[Arrays] = [
        {"outside": np.zeros((8, 8, 8)), "depth": np.full(500, np.nan, np.float32), "brain": np.zeros((8, 8, 8))}
    ] * 20
    for attacker in ("volume", "surface", "brain"):
        assert recognise(attackers.scores(attacker, gone, gallery)[0]).rank1 == pytest.approx(1 / 20)


def test_surfaces_that_differ_by_a_shift_are_close() -> None:
    one = heads(1, 3)[0]
    moved = {"depth": one["depth"] + 12}
    assert attack_volume.surface_closeness([moved], [one])[0, 0] == pytest.approx(0, abs=1e-3)


def test_the_face_attacker_looks_at_the_face_alone() -> None:
    from cpmae import canonical
    from cpmae.evaluation.render import face

    x, y, z = (n // 4 for n in canonical.GRID_SHAPE)
    size = x * z + 2 * y * z + x * y  # front, left and right, top
    rng = np.random.default_rng(0)
    one = {"depth": rng.normal(100, 10, size).astype(np.float32)}
    other = {"depth": rng.normal(100, 10, size).astype(np.float32)}
    front = other["depth"][: x * z].reshape(x, z)  # a view
    face(front)[:] = face(one["depth"]) + 5  # another head with the same face, 5 mm behind
    scores, _ = attackers.scores("face", [other], [one, {"depth": rng.normal(100, 10, size).astype(np.float32)}])
    assert scores[0, 0] == pytest.approx(0, abs=1e-4) and scores[0, 1] < -5
    assert attackers.scores("surface", [other], [one])[0][0, 0] < -5


@pytest.mark.parametrize("follows", [True, False])
def test_what_brains_tell_of_heads_is_learnt_from_other_people(follows: bool) -> None:
    rng = np.random.default_rng(5)
    shapes = rng.normal(size=(100, 8))
    brains = shapes @ rng.normal(size=(8, 64)) + rng.normal(0, 0.1, (100, 64))
    of = shapes if follows else rng.normal(size=(100, 8))
    depths = (100 + of @ rng.normal(size=(8, 500)) + rng.normal(0, 1, (100, 500))).astype(np.float32)
    gallery: list[Arrays] = [{"brain": b, "depth": d} for b, d in zip(brains, depths, strict=True)]
    probes: list[Arrays] = [{"brain": b} for b in brains[:97]]  # the very brains that the gallery has: none is to help
    told = recognise(attackers.scores("brain to head", probes, gallery)[0])
    if follows:
        assert told.rank1 > 0.7 and told.auc > 0.95
    else:
        assert told.rank1_ci[0] <= told.chance and 0.4 < told.auc < 0.6


def test_two_people_are_too_few_to_learn_what_brains_tell() -> None:
    gallery = [h | {"brain": h["outside"]} for h in heads(2, 0)]
    assert recognise(attackers.scores("brain to head", gallery, gallery)[0]).rank1 == 0.5


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """People as blobs at places of their own, seen twice with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    sides = []
    places = rng.uniform(12, 52, (count, 3, 3, 2))  # three blobs a view
    for _ in range(2):
        image = sum(
            150 * np.exp(-((x - places[..., b, :1, None]) ** 2 + (y - places[..., b, 1:, None]) ** 2) / 40)
            for b in range(3)
        )
        sides.append(np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8))
    return sides[0], sides[1]


def test_the_similarity_network_learns_to_tell_people_apart(tmp_path: Path) -> None:
    network = attack_network.train(pictures(64, 0), TINY, tmp_path / "n.pt", lambda text: None)
    first, second = pictures(30, 1)  # others than it learnt from
    table = attack_network.similarities(network, [{"renders": p} for p in first], [{"renders": p} for p in second])
    assert recognise(table, resamples=100).auc > 0.85
    noise = RNG.integers(0, 255, first.shape).astype(np.uint8)
    table = attack_network.similarities(network, [{"renders": p} for p in noise], [{"renders": p} for p in second])
    assert 0.35 < recognise(table, resamples=100).auc < 0.65


def test_training_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_network, "_SAVE_EVERY", 5)
    settings = NetworkSettings(steps=12, batch=4, width=4, pixels=32)
    people = pictures(8, 0)
    whole = attack_network.train(people, settings, tmp_path / "whole.pt", lambda text: None)

    def kill(text: str) -> None:
        if "step 10" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_network.train(people, settings, tmp_path / "part.pt", kill)
    assert torch.load(tmp_path / "part.pt", weights_only=True)["step"] == 5
    went_on = attack_network.train(people, settings, tmp_path / "part.pt", lambda text: None)
    for a, b in zip(whole.state_dict().values(), went_on.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_face_recogniser_sees_no_face_in_noise() -> None:
    pytest.importorskip("dlib")
    from cpmae.evaluation.attack_face import face_scores

    noise: list[Arrays] = [{"renders": RNG.integers(0, 255, (5, 200, 200)).astype(np.uint8)} for _ in range(3)]
    scores, detected = face_scores(noise, noise)
    assert detected == 0 and recognise(scores).rank1 == pytest.approx(1 / 3)


def test_the_cache_tells_settings_apart_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.load("a scan", seed=1) is None
    cache.save({"x": np.arange(3)}, "a scan", seed=1)
    found = cache.load("a scan", seed=1)
    assert found is not None and found["x"].tolist() == [0, 1, 2]
    assert cache.load("a scan", seed=2) is None and cache.load("another", seed=1) is None
    assert [p.suffix for p in cache.folder.iterdir()] == [".npz"]  # nothing half written


def test_an_item_is_made_once(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []

    def make() -> Arrays:
        made.append(len(made))
        return {"x": np.array(made)}

    assert cache.get(make, "a scan", seed=1)["x"].tolist() == [0] == cache.get(make, "a scan", seed=1)["x"].tolist()
    assert cache.get(make, "a scan", seed=2)["x"].tolist() == [0, 1]


def _square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_done_in_one_process_and_in_several(workers: int) -> None:
    assert dict(run_all(_square, [2, 3, 4], workers, lambda text: None, "squares")) == {0: 4, 1: 9, 2: 16}


LONG_RUN = """
import os, sys, time
from pathlib import Path
from cpmae.evaluation.work import run_all
from cpmae.stopping import exit_on_signals

def task(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    exit_on_signals()
    list(run_all(task, [sys.argv[1]] * 2, 2, lambda text: None, "tasks"))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "long_run.py").write_text(LONG_RUN)
    begun = tmp_path / "begun"
    begun.mkdir()
    run = subprocess.Popen([sys.executable, tmp_path / "long_run.py", begun])
    try:
        until(lambda: len(list(begun.iterdir())) == 2)
        run.send_signal(how)
        run.wait(timeout=120)  # and does not wait for what the workers do
    finally:
        run.kill()
        run.wait()
    workers = [int(path.name) for path in begun.iterdir()]
    until(lambda: not any(alive(pid) for pid in workers))


def until(true: Callable[[], bool]) -> None:
    """Wait for it, two minutes at most."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come true")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"  # dead, and nobody asked how


def test_agreement_by_hand() -> None:
    from cpmae import canonical
    from cpmae.evaluation.identities import HeadScan
    from cpmae.volume import Volume

    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    before = np.zeros((20, 20, 20), np.int32)
    before[2:10, 2:10, 2:10] = 1
    before[12:16, 12:16, 12:16] = 2
    after = np.roll(before, 1, axis=0)
    after[after == 2] = 0
    head = HeadScan(Volume(before, affine), np.ones(before.shape, bool))
    pose = canonical.Pose(np.eye(4), 1.0, 0.0)
    found = compare(before, after, head, pose)
    assert found["labels"].tolist() == [1, 2]
    assert found["dice"].tolist() == pytest.approx([2 * 7 * 64 / (2 * 512), 0])
    assert found["hd95"][0] == pytest.approx(2) and np.isinf(found["hd95"][1])
    assert found["volume_diff"].tolist() == [0, -1]
    assert found["voxels"].tolist() == [512, 64]
    same = compare(before, before, head, pose)
    assert same["dice"].tolist() == [1, 1] and not same["flips"].any()


def test_tables_count_scans_structures_and_failures() -> None:
    def row(scan: str, structure: str, value: float) -> dict:
        measures = {"dice": value, "hd95_mm": 1.0, "volume_diff": 0.0}
        return {"method": "M", "segmenter": "S", "structure": structure, "scan": scan} | measures

    rows = [row("a", "big", 0.9), row("a", "small", 0.1), row("b", "big", 1.0)]
    (found,) = method_table(rows, [500, 50, 500], [Failure("c", "M", "no"), Failure("c", "S after M", "no")])
    assert found["scans"] == 2 and found["failures"] == 2
    assert found["mean_dice"] == pytest.approx((0.5 + 1) / 2)
    assert (found["worst_structure"], found["lowest_dice"]) == ("big", 0.9)  # the small one is too small to count


def test_a_structure_that_one_scan_loses_leaves_the_figures_of_the_others() -> None:
    def row(distance: float, volume: float) -> dict:
        names = {"method": "M", "segmenter": "S", "structure": "a", "scan": "s"}
        return names | {"dice": 0.5, "hd95_mm": distance, "volume_diff": volume}

    (found,) = structure_table([row(1.0, -0.1), row(3.0, 0.3), row(np.inf, -1.0), row(np.inf, np.inf)])
    assert (found["scans"], found["lost"], found["hd95_mm"]) == (4, 2, 2.0)
    assert found["volume_diff"] == pytest.approx(-0.8 / 3)
    (none,) = structure_table([row(np.inf, np.inf)])
    assert none["lost"] == 1 and np.isnan(none["hd95_mm"])


def test_flips_at_one_place_are_told_from_flips_anywhere() -> None:
    place = np.zeros((30, 30, 30), bool)
    place[5:10, 5:10, 5:10] = True
    rng = np.random.default_rng(0)
    always = flip_figures([place] * 4)
    anywhere = flip_figures([rng.random(place.shape) < 0.01 for _ in range(4)])
    assert always["same_place"] == 1
    assert anywhere["same_place"] < 0.05
    assert anywhere["mean_flipped_ml"] == pytest.approx(0.01 * 27000 * 8 / 1000, rel=0.2)
