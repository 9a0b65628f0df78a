import numpy as np
import pytest
import torch
from torch import nn

from lemevit_cli.errors import DataError, OutputError
from lemevit_cli.models.dense_features import DenseFeatures
from lemevit_cli.tasks.backbone.teacher import (
    AnswerCache,
    Teacher,
    find_basis,
    tokens_of_views,
)


class Cells(nn.Module):
    """Means over cells of eight pixels, and four times as much of them: channels of two sizes."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += len(x)
        means = nn.functional.avg_pool2d(x, 8)
        return [torch.cat([means, 1e4 * means.flip(1) ** 2], dim=1)]


def features():
    return DenseFeatures(Cells(), strides=[8], mean=[0.0] * 3, std=[1.0] * 3, label="cells")


def batch(*views):
    generator = torch.Generator().manual_seed(3)
    shown = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {
        "view": torch.tensor(views),
        "shown": shown[list(views)],
        "zoom": torch.ones(len(views)),
        "valid": torch.ones(len(views), 32, 32, dtype=torch.uint8),
    }


CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def teacher(folder=None, width=4, **changes):
    """Return a teacher whose answers are kept in a folder, if there is one."""
    cache = None if folder is None else keep(folder, **changes)
    basis = cache.basis() if cache else None
    if basis is None:
        seen = [batch(0, 1, 2, 3), batch(4, 5, 6, 7)]
        basis = find_basis(tokens_of_views(features(), seen, **CPU), width=width)
    if cache:
        cache.open(basis, count=8, grid=4)
    return Teacher(features(), basis, cache=cache, **CPU)


def keep(folder, seed=0):
    return AnswerCache(folder, made_for={"seed": seed})


def test_components_are_those_of_a_singular_value_decomposition():
    tokens = np.random.default_rng(0).normal(size=(400, 6)) @ np.diag([1, 9, 2, 3, 1, 100.0])
    tokens[:, 0] += tokens[:, 1] / 3
    tokens = tokens.astype(np.float32)
    basis = find_basis(tokens, width=3)
    standard = (tokens - tokens.mean(0)) / tokens.std(0)
    _, singular, rows = np.linalg.svd(standard, full_matrices=False)
    np.testing.assert_allclose(np.abs(basis.components @ rows[:3].T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(basis.scale, singular[:3] / 20, rtol=1e-4)
    assert basis.explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum())


def test_a_teacher_that_says_nothing_is_refused():
    with pytest.raises(DataError, match="same of every view"):
        find_basis(np.ones((9, 3), dtype=np.float32), width=2)


def test_answers_are_the_reduced_features_of_each_view():
    taught = teacher()
    answers = taught(batch(5, 2))
    raw = Cells()(batch(5, 2)["shown"].float())[0].numpy()
    basis = taught.basis
    standard = (raw - basis.mean[:, None, None]) / basis.std[:, None, None]
    wanted = np.einsum("wc,bchk->bwhk", basis.components, standard)
    np.testing.assert_allclose(answers.numpy(), wanted, rtol=2e-3, atol=2e-3)  # 16 bits


def test_what_is_kept_is_asked_for_once_and_reads_the_same(tmp_path):
    taught = teacher(tmp_path / "kept")
    first = taught(batch(1, 4))
    asked = taught._features.network.calls
    assert torch.equal(taught(batch(4, 1)), first.flip(0))
    assert taught._features.network.calls == asked
    again = teacher(tmp_path / "kept")  # another run
    assert torch.equal(again(batch(1, 4)), first)
    assert again._features.network.calls == 0


def test_what_a_view_gets_does_not_depend_on_whether_it_is_kept(tmp_path):
    assert torch.equal(teacher(tmp_path / "kept")(batch(6)), teacher()(batch(6)))


def test_views_of_different_zooms_share_a_batch():
    mixed = batch(1, 4, 6) | {"zoom": torch.tensor([1.0, 2.0, 1.0])}
    answers = teacher()(mixed)
    assert torch.equal(answers[[0, 2]], teacher()(batch(1, 6)))
    assert answers.shape == (3, 4, 4, 4)


def test_answers_made_for_something_else_are_refused(tmp_path):
    teacher(tmp_path / "kept")
    teacher(tmp_path / "kept")
    with pytest.raises(OutputError, match="other data or options"):
        keep(tmp_path / "kept", seed=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        keep(tmp_path / "file")


def test_a_cache_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    basis = teacher().basis
    with pytest.raises(OutputError, match="--cache-gb"):
        keep(tmp_path / "kept").open(basis, count=10**15, grid=4)
    assert list((tmp_path / "kept").iterdir()) == []


def test_room_on_the_disk_is_taken_before_the_first_answer(tmp_path):
    teacher(tmp_path / "kept")
    file = tmp_path / "kept" / "features.f16"
    assert file.stat().st_size == 2 * 8 * 4 * 4 * 4
    assert file.stat().st_blocks * 512 >= file.stat().st_size


def test_a_channel_that_never_differs_stays_small():
    tokens = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    tokens[:, 1] = 0.0
    basis = find_basis(tokens, width=3)
    assert len(basis.scale) == 2 and basis.std[1] == 1.0
    later = (np.array([0.0, 5.0, 0.0]) - basis.mean) / basis.std
    assert np.abs(basis.components @ later).max() < 10


def test_nodata_pixels_have_no_say_in_the_components():
    half = batch(0, 1)
    half["valid"][:, :, 16:] = 0
    changed = {k: v.clone() for k, v in half.items()}
    changed["shown"][..., 16:] = 0
    one, other = (tokens_of_views(features(), [b], **CPU) for b in (half, changed))
    np.testing.assert_array_equal(one, other)
    empty = half | {"valid": torch.zeros_like(half["valid"])}
    with pytest.raises(DataError, match="no pixel"):
        tokens_of_views(features(), [empty], **CPU)
