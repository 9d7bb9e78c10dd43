import pytest
import torch
from known_evidence import KnownEvidence, normal

from alprune.acquisition import distances as points_module
from alprune.acquisition.distances import gather, make_points
from alprune.errors import AcquisitionError


def test_squared_distances_equal_differences_in_float64():
    rows, others = normal(40, 7), normal(9, 7, seed=1)
    expected = (rows.double()[:, None] - others.double()).square().sum(2)
    squared = make_points(rows).to(make_points(others))
    assert torch.allclose(squared.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(
        make_points(rows).nearest(make_points(others)).double(), expected.amin(1), atol=1e-5
    )


def test_equal_rows_are_at_distance_zero_and_no_distance_is_negative():
    rows = normal(300, 64) * 100
    points = make_points(torch.cat([rows, rows]))
    squared = points.to(points)
    assert (squared >= 0).all()
    assert (squared.diagonal() == 0).all()
    assert (squared.diagonal(300) == 0).all()
    assert int((squared == 0).sum()) == 4 * 300


def test_blocks_of_any_size_give_the_same_distances(monkeypatch):
    points, others = make_points(normal(50, 4)), make_points(normal(6, 4, seed=1))
    whole = points.to(others)
    for block in (1, 13, 64, 10**6):
        monkeypatch.setattr(points_module, "BLOCK", block)
        parts = list(points.blocks(others))
        assert torch.allclose(torch.cat([squared for _, squared in parts]), whole)
        assert sum(len(squared) for _, squared in parts) == 50


def test_without_others_the_nearest_is_infinitely_far():
    points = make_points(normal(5, 3))
    assert points.nearest(points[:0]).isinf().all()


def test_gathered_rows_are_centred_labelled_first_and_the_evidence_is_left_alone():
    evidence = KnownEvidence(normal(20, 4) + 50, normal(6, 4, seed=1) + 50)
    kept = evidence.embeddings.clone(), evidence.labelled_embeddings.clone()
    points, labelled = gather(evidence)
    assert labelled == 6
    assert torch.allclose(points.rows.mean(0), torch.zeros(4), atol=1e-5)
    moved = torch.cat([kept[1], kept[0]]) - points.rows
    assert torch.allclose(moved, moved[0].expand_as(moved), atol=1e-5)
    assert torch.equal(evidence.embeddings, kept[0])
    assert torch.equal(evidence.labelled_embeddings, kept[1])


def test_unit_rows_keep_their_angles_and_zero_rows_stay_finite():
    rows = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 5.0], [0.0, 0.0]])
    points, _ = gather(KnownEvidence(rows), unit=True)
    squared = points.to(points)
    assert squared[0, 1] == 0
    assert torch.allclose(squared[0, 2], torch.tensor(0.36 + 0.04), atol=1e-6)
    assert torch.allclose(squared[3, :3], torch.ones(3), atol=1e-6)


def test_candidates_alone_can_be_gathered_without_touching_the_labelled():
    evidence = KnownEvidence(normal(5, 2), normal(3, 2))
    del evidence.labelled_embeddings
    points, labelled = gather(evidence, labelled=False)
    assert (len(points), labelled) == (5, 0)


def test_rows_too_large_to_square_are_refused():
    rows = normal(4, 3)
    rows[2] = 1e25
    with pytest.raises(AcquisitionError, match="1 of 4 points .* too large to square .*row 2"):
        make_points(rows)
