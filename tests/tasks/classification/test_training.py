import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from making.interruption import train_whole_and_in_parts

from lemevit_cli.errors import LemevitError
from lemevit_cli.metrics.confusion import match_classes
from lemevit_cli.models.weights import load_weights, read_card
from lemevit_cli.tasks import load_training, training
from lemevit_cli.tasks.classification.recipes import RECIPES
from lemevit_cli.tasks.classification.training import TRAINING
from lemevit_cli.tasks.training import describe_training, follow_recipe, train
from lemevit_cli.training.options import DataOptions, TrainingOptions


def paper(class_options, **changes):
    options = class_options(recipe="paper", chosen=("steps", "lr", "crop"), **changes)
    return follow_recipe("cls", options)


def test_a_model_learns_what_is_easy(class_training):
    data, report = class_training
    assert report["scores"]["colours"]["top1"] > 0.9
    card = read_card(report["path"])
    assert card.class_names == ("blue", "green", "red") and card.task == "cls"
    assert (card.window, card.overlap, card.head) == (32, 16, "linear")
    assert card.metrics[0]["top1"] == report["scores"]["colours"]["top1"]
    assert card.metrics[0]["command"] == f"lemevit eval colours.safetensors {data} --precision fp32"
    state, _ = load_weights(report["path"])
    TRAINING.network.build_model(card).load_state_dict(state)


def test_eval_gives_the_figures_of_the_card(class_training):
    from lemevit_cli.tasks.evaluation import evaluate

    data, report = class_training
    figures = evaluate(report["path"], data)
    assert figures == report["scores"]["colours"]
    assert figures["windows"] == figures["pictures"] == 18
    tta = evaluate(report["path"], data, runtime=training.RuntimeOptions(device="cpu", tta=True))
    assert tta["top1"] > 0.9


def test_a_scene_with_labels_teaches_windows(tmp_path, write_scene, write_polygons, class_options):
    import shapely
    from affine import Affine

    transform = Affine(1, 0, 0, 0, -1, 256)
    values = np.random.default_rng(0).integers(0, 90, (3, 256, 256))
    values[0, :, :128] += 120
    values[2, :, 128:] += 120
    scene = write_scene(values.astype(np.uint8), transform=transform)
    halves = [shapely.box(0, 0, 128, 256), shapely.box(128, 0, 256, 256)]
    labels = write_polygons(halves, kind=["fire", "sea"])
    from lemevit_cli.training.options import LabelledScene

    how = LabelledScene(scene=scene, labels=labels, label_field="kind", background="ignore")
    data = DataOptions(scenes=(how,), val_fraction=0.25)
    report = train("cls", data, str(tmp_path / "w.safetensors"), class_options())
    scores = report["scores"]["scene"]
    assert report["classes"] == ["fire", "sea"] and scores["top1"] > 0.9
    assert scores["windows"] > 20  # cells, not areas
    assert read_card(report["path"]).gsd_m == pytest.approx((1.0, 1.0), rel=1e-2)


def test_pixels_of_pictures_grow_with_what_a_window_shows(tmp_path, write_pictures, class_options):
    data = DataOptions(paths=(write_pictures(tmp_path / "p", size=(64, 96)),))
    found = TRAINING.open_data(data, class_options(gsd_m=(0.5, 1.0)))
    assert found.card.gsd_m == (1.0, 2.0)
    assert found.notes == ("p/train: pictures by class: blue 5, green 5, red 5",)
    found = TRAINING.open_data(data, class_options())
    assert found.card.gsd_m is None
    assert "pictures of 64 pixels are seen as windows of 32; say by --gsd" in found.notes[-1]


@pytest.mark.parametrize("is_paper", [False, True])
def test_a_sample_is_the_same_whenever_it_is_drawn(
    tmp_path, write_pictures, class_options, is_paper
):
    options = paper(class_options) if is_paper else class_options()
    found = TRAINING.open_data(DataOptions(paths=(write_pictures(tmp_path / "p"),)), options)
    samples = found.training.samples
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = [samples[i] for i in range(8)]
    copy = pickle.loads(pickle.dumps(samples))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for i in reversed(range(8)):
        again = copy[i]
        assert torch.equal(again["pixels"], first[i]["pixels"])
        assert torch.equal(again["label"], first[i]["label"])
    random.setstate(states[0]), torch.set_rng_state(states[2])
    samples[3]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    assert first[0]["pixels"].shape == (3, 32, 32) and first[0]["pixels"].dtype == torch.float32
    assert len({int(sample["label"]) for sample in first}) > 1


def test_every_draw_of_the_papers_augmentation_succeeds(tmp_path, write_pictures, class_options):
    found = TRAINING.open_data(
        DataOptions(paths=(write_pictures(tmp_path / "p"),)), paper(class_options)
    )
    pixels = torch.stack([found.training.samples[i]["pixels"] for i in range(300)])
    assert pixels.isfinite().all()
    assert 60 < float(pixels.mean()) < 200


def test_the_recipe_of_the_paper_sets_what_was_not_chosen():
    options = TrainingOptions(recipe="paper", batch_size=256, accumulate=4, chosen=("batch_size",))
    found = follow_recipe("cls", options)
    assert (found.optimizer, found.lr, found.weight_decay) == ("adamw", 1e-3, 0.05)
    assert (found.epochs, found.warmup * 300, found.cooldown * 300) == (300, 5, 20)
    assert found.first_rate * found.lr == pytest.approx(1e-6 * 2)
    assert found.last_rate * found.lr == pytest.approx(5e-6 * 2)
    assert (found.ema_decay, found.clip_norm, found.label_smoothing) == (0.996, None, 0.1)
    assert found.backbone_args == {"drop_path_rate": 0.15} and found.crop == 224
    how = found.timm
    assert (how.mixup, how.cutmix, how.mix_prob, how.mix_switch) == (0.8, 1.0, 1.0, 0.5)
    assert (how.randaugment, how.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (how.erasing_mode, how.mix_mode) == ("pixel", "batch")
    assert (found.betas, found.eps) == ((0.9, 0.999), 1e-8)
    own = replace(options, lr=0.1, steps=7, chosen=("lr", "steps", "drop_path"))
    kept = follow_recipe("cls", own)
    assert (kept.lr, kept.epochs, kept.steps, kept.backbone_args) == (0.1, None, 7, {})
    scenes = follow_recipe("cls", replace(options, recipe="paper-scenes"))
    assert (scenes.epochs, scenes.warmup, scenes.cooldown) == (100, 0, 0)
    assert scenes.weight_decay == 2e-5 and scenes.last_rate * scenes.lr == pytest.approx(2e-5)


def test_a_recipe_that_there_is_not_is_refused():
    with pytest.raises(LemevitError, match="no recipe 'x' for task cls; there are paper, paper-"):
        follow_recipe("cls", TrainingOptions(recipe="x"))
    with pytest.raises(LemevitError, match="no recipe 'paper' for task seg; it has none"):
        follow_recipe("seg", TrainingOptions(recipe="paper"))


def test_two_windows_are_mixed_and_the_loss_is_that_of_their_shares(class_training, class_options):
    data, _ = class_training
    options = paper(class_options)
    found = TRAINING.open_data(DataOptions(paths=(data,)), options)
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, pixels):
            seen.append(pixels)
            return torch.zeros(len(pixels), 3, requires_grad=True)

    loss = TRAINING.make_loss(found, options)
    pixels = torch.stack([torch.full((3, 32, 32), float(i)) for i in range(4)])
    total, windows = loss(Recorder(), {"pixels": pixels, "label": torch.tensor([0, 1, 2, 0])})
    assert not torch.equal(seen[0], pixels) and torch.equal(pixels[3], torch.full((3, 32, 32), 3.0))
    assert int(windows) == 4 and float(total.detach()) == pytest.approx(4 * np.log(3))
    batch = {"pixels": pixels, "label": torch.tensor([0, -1, -1, -1])}
    total, windows = loss(Recorder(), batch)
    assert int(windows) == 1 and seen[-1].shape == (1, 3, 32, 32)
    total, windows = loss(Recorder(), {"pixels": pixels, "label": torch.full((4,), -1)})
    assert int(windows) == 0 and float(total.detach()) == 0.0


def test_a_resumed_training_gives_the_same_tensors(tmp_path, class_training, class_options):
    data = DataOptions(paths=(class_training[0],))
    options = paper(class_options, steps=6, checkpoint_every=3, validate_every=3)
    states = train_whole_and_in_parts("cls", data, tmp_path, options, halt=5)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_dry_run_tells_the_recipe_and_trains_nothing(tmp_path, class_training, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = TrainingOptions(recipe="paper", backbone="test_resnet", batch_size=6)
    plan = describe_training("cls", DataOptions(paths=(class_training[0],)), options)
    assert plan["steps"] == 300 * 18 / 6 and plan["card"]["classes"] == ["blue", "green", "red"]
    for key, value in RECIPES["paper"](options, 1).items():
        if key not in ("backbone_args", "timm", "augmentation"):
            assert plan["recipe"][key] == value, key
    assert plan["recipe"]["timm"]["mixup"] == 0.8
    assert plan["card"]["backbone_args"] == {"drop_path_rate": 0.15}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "upernet"}, "--decoder upernet: is not for cls, whose head is one layer"),
        ({"loss": "dice"}, "--loss dice: is not for cls"),
        ({"class_weights": "balanced"}, "--class-weights balanced: is not for cls"),
        ({"recipe": "paper", "batch_size": 7}, "--batch-size 7: windows are mixed two by two"),
        ({"backbone": "resnot"}, "no backbone 'resnot'"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_data(changes, message, tmp_path, class_options):
    data = DataOptions(paths=("nowhere",))
    with pytest.raises(LemevitError, match=message):
        train("cls", data, str(tmp_path / "w.safetensors"), class_options(**changes))


def test_the_papers_augmentation_needs_pictures_of_bytes(tmp_path, write_scene, class_options):
    for name in ("a", "b"):
        for number in range(2):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).integers(0, 9000, (3, 40, 40)).astype(np.uint16)
            write_scene(values, name=f"data/{name}/{number}.tif")
    data = DataOptions(paths=(str(tmp_path / "data"),))
    with pytest.raises(LemevitError, match="data: has 3 bands of uint16; timm varies pictures"):
        TRAINING.open_data(data, paper(class_options))
    assert TRAINING.open_data(data, class_options()).card.dtype == "uint16"


def test_pictures_of_a_training_can_be_drawn(tmp_path, class_training, class_options):
    found = load_training("cls").open_data(DataOptions(paths=(class_training[0],)), class_options())
    found.draw_samples(tmp_path / "sheet.png")
    found.draw_report(tmp_path / "report.png", [])
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("sheet.png", "report.png"))


def test_match_of_classes_is_that_of_other_tasks():
    assert match_classes("abc", "ba").classes == ("b", "a")
