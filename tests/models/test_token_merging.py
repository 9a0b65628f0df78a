from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.token_merging import (
    BOUND_WEIGHT,
    Answer,
    CellMerging,
    Clusters,
    MergingOptions,
    answer_with_features,
    apply_ltm,
    assignments,
    bottleneck_bound,
    class_means,
    find_clusters,
    from_cells,
    merge_by,
    merging_loss,
    to_cells,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


# --- The bound: numbers of the released training script ----------------------------------------


@pytest.fixture
def released():
    return load_file(FIXTURES / "ltm_ib_terms.safetensors")


def clusters_of(released):
    return Clusters(released["centroids_in"], released["centroids_out"], released["Q"])


def test_assignments_and_class_means_are_those_of_the_released_script(released):
    before = assignments(released["x_in"], released["centroids_in"])
    behind = assignments(released["feat"], released["centroids_out"])
    torch.testing.assert_close(before, released["phi_in"], rtol=0, atol=1e-6)
    torch.testing.assert_close(behind, released["phi_out"], rtol=0, atol=1e-6)
    means = class_means(behind, released["target"], 7)
    torch.testing.assert_close(means, released["Q"], rtol=0, atol=1e-6)


def test_the_bound_is_that_of_the_released_script(released):
    bound = bottleneck_bound(
        clusters_of(released), released["x_in"], released["feat"], released["target"]
    )
    torch.testing.assert_close(bound[None], released["ib"], rtol=0, atol=1e-6)


def test_loss_and_gradient_are_those_of_the_released_script(released):
    features = released["feat"].clone().requires_grad_()
    answer = Answer(released["logits"], released["x_in"], features)
    clusters, target = clusters_of(released), released["target"]
    early = merging_loss(answer, target, clusters, done=0.29)
    torch.testing.assert_close(early[None], released["ce"], rtol=0, atol=1e-6)
    late = merging_loss(answer, target, clusters, done=0.3)
    torch.testing.assert_close(late - early, BOUND_WEIGHT * released["ib"][0], rtol=0, atol=1e-6)
    # The script's own weight of the bound was 1 where the gradient was taken.
    bottleneck_bound(clusters, released["x_in"], features, target).backward()
    torch.testing.assert_close(features.grad, released["grad_feat"], rtol=1e-4, atol=1e-7)


def test_the_first_term_lets_nothing_flow_into_the_masks(released):
    features = released["feat"].clone().requires_grad_()
    even = Clusters(
        released["centroids_in"], released["centroids_out"], torch.full_like(released["Q"], 1 / 7)
    )
    # With even classes the second term is constant too: what is left is the first.
    bottleneck_bound(even, released["x_in"], features, released["target"]).backward()
    assert features.grad.abs().max() < 1e-7


def test_clusters_find_groups_of_features():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(3, 16, generator=generator)
    labels = torch.arange(60) % 3
    features = groups[labels] + 0.05 * torch.randn(60, 16, generator=generator)
    clusters = find_clusters(features, features, labels, 3)
    nearest = assignments(features, clusters.merged).argmax(1)
    assert all(len(nearest[labels == y].unique()) == 1 for y in range(3))
    assert len(nearest.unique()) == 3
    torch.testing.assert_close(clusters.of_classes.sum(0), torch.ones(3))


def test_a_class_without_an_image_is_even_and_the_bound_a_number():
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(8, dtype=torch.long)
    clusters = find_clusters(features, features, labels, 3)
    assert torch.allclose(clusters.of_classes[:, 2], torch.full((3,), 1 / 3))
    assert bottleneck_bound(clusters, features, features, labels + 2).isfinite()


# --- Masks --------------------------------------------------------------------------------------


def test_merged_tokens_are_means_by_the_mask_and_sizes_sum_to_the_tokens():
    generator = torch.Generator().manual_seed(0)
    mask = torch.randn(2, 9, 4, generator=generator).softmax(-1)
    tokens = torch.randn(2, 9, 3, generator=generator)
    merged, sizes = merge_by(mask, tokens)
    for image in range(2):
        for slot in range(4):
            weights = mask[image, :, slot]
            expected = (weights[:, None] * tokens[image]).sum(0) / weights.sum()
            torch.testing.assert_close(merged[image, slot], expected)
    torch.testing.assert_close(sizes.sum(1), torch.full((2,), 9.0))


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=64, num_classes=4)


def test_a_vit_passes_on_fewer_tokens_block_by_block_and_learns_its_masks(vit):
    images, seen = torch.randn(2, 3, 64, 64), []
    merging = apply_ltm(vit, MergingOptions(keep=0.5, blocks=(0, 1, 2)))
    for mask in merging.blocks.masks.values():
        mask.register_forward_hook(lambda module, given, answer: seen.append(answer))
    answer = answer_with_features(merging, images)
    torch.testing.assert_close(answer.logits, merging(images))
    tokens = vit.patch_embed.num_patches
    assert [tuple(m.shape[1:]) for m in seen[: len(seen) // 2]][:2] == [
        (tokens, tokens // 2),
        (tokens // 2, tokens // 4),
    ]
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, tokens))
    labels = torch.tensor([0, 1])
    clusters = find_clusters(answer.inputs, answer.merged, labels, 4)
    merging_loss(answer, labels, clusters, done=1.0).backward()
    for name, parameter in merging.blocks.masks.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_previous_mask_is_heard(vit):
    merging = apply_ltm(vit, MergingOptions(keep=0.5))
    second = merging.blocks.masks["1"]
    tokens = torch.randn(1, second.of_places.shape[0], vit.embed_dim)
    previous = torch.rand(1, second.of_previous.in_features, tokens.shape[1]).softmax(-1)
    other = previous.flip(1)
    assert not torch.allclose(second(tokens, previous), second(tokens, other))


def test_a_vit_that_keeps_all_is_the_plain_one_with_the_same_names(vit):
    images, names = torch.randn(2, 3, 64, 64), set(vit.state_dict())
    plain = vit(images)
    merging = apply_ltm(vit, MergingOptions(keep=1.0))
    assert torch.equal(merging(images), plain) and set(merging.state_dict()) == names


def test_what_cannot_merge_is_refused(vit):
    with pytest.raises(WeightsError, match="LeMeViT has merge_tokens of its own"):
        apply_ltm(timm.create_model("lemevit_tiny"), MergingOptions())
    with pytest.raises(WeightsError, match="no block 9 to merge tokens in"):
        apply_ltm(vit, MergingOptions(blocks=(9,)))
    with pytest.raises(ValueError, match="keep=0: a part of the tokens"):
        MergingOptions(keep=0)


# --- LeMeViT ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 12), (5, 7), (1, 3)])
def test_cells_hold_every_token_once_and_give_it_back(height, width):
    tokens = torch.randn(2, height * width, 3)
    cells = to_cells(tokens, height, width)
    assert cells.shape == (2, -(-height // 4) * -(-width // 4), 16, 3)
    assert torch.equal(from_cells(cells, height, width), tokens)
    # A cell is a square of the map.
    grid = tokens.unflatten(1, (height, width))
    torch.testing.assert_close(cells[:, 0].sum(1), grid[:, :4, :4].sum((1, 2)))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (5, 7)])
def test_a_plan_keeps_equal_tokens_and_counts_all(share, height, width):
    torch.manual_seed(0)
    merging = CellMerging(6, share)
    tokens = torch.randn(2, height * width, 6)
    plan = merging.plan(tokens, height, width)
    merged, log_sizes = plan.merge(torch.full_like(tokens, 2.5))
    cells = -(-height // 4) * -(-width // 4)
    assert merged.shape == (2, cells * (16 - round(16 * share)), 6)
    torch.testing.assert_close(merged, torch.full_like(merged, 2.5))
    torch.testing.assert_close(log_sizes.exp().sum(1), torch.full((2,), 1.0 * height * width))
    torch.testing.assert_close(plan.spread(merged), torch.full_like(tokens, 2.5))
    alone = merging.plan(tokens[1:], height, width)
    torch.testing.assert_close(alone.mask, plan.mask[1:])


def test_at_first_neighbours_in_squares_go_together():
    merging = CellMerging(6, 0.75)
    mask = merging.plan(torch.zeros(1, 16, 6), 4, 4).mask[0, 0]
    own = mask.argmax(1).reshape(4, 4)
    assert torch.equal(own, torch.tensor([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2))
    assert (mask.max(1).values > 0.85).all()


def test_lemevit_learns_its_mask_and_is_the_same_when_folded():
    torch.manual_seed(0)
    model = timm.create_model("lemevit_tiny", features_only=True, merge_tokens=0.5).eval()
    picture = torch.randn(2, 3, 96, 160)
    maps = model(picture)
    plain = timm.create_model("lemevit_tiny", features_only=True)
    plain.load_state_dict(model.state_dict(), strict=False)
    others = plain.eval()(picture)
    assert torch.equal(maps[1], others[1]) and not torch.allclose(maps[2], others[2])
    sum(m.mean() for m in maps).backward()
    learned = [n for n, _ in model.named_parameters() if "reduction" in n]
    assert len(learned) == 5
    for name, parameter in model.named_parameters():
        if name in learned:
            assert parameter.grad.abs().sum() > 0, name
    with torch.inference_mode():
        for ours, folded in zip(maps, optimise_for_inference(model)(picture), strict=True):
            torch.testing.assert_close(folded, ours.detach(), rtol=1e-3, atol=1e-4)


def test_without_merging_nothing_of_it_is_there():
    names = timm.create_model("lemevit_tiny").state_dict()
    assert not [name for name in names if "reduction" in name]


def test_a_learned_mask_stays_and_suffers_no_other():
    model = timm.create_model("lemevit_tiny", features_only=True, merge_tokens=0.5).model
    model.reduce_tokens({3: None})
    assert isinstance(model.stages[3].reduction, CellMerging)
    with pytest.raises(ValueError, match="stage 3 has learned how to reduce its tokens"):
        model.reduce_tokens({3: object()})
