import shutil
from pathlib import Path

import pytest
from making.collector import Collector

from lemevit_cli.errors import DataError, LemevitError, OutputError, WeightsError
from lemevit_cli.models.weights import load_checkpoint, load_weights, read_card
from lemevit_cli.progress import Silent
from lemevit_cli.tasks import load_network, load_training, training
from lemevit_cli.tasks.training import show_samples, train
from lemevit_cli.training.options import DataOptions


def test_a_model_learns_what_is_easy(trained):
    report = trained[1]
    assert report["best"]["figures"]["squares"]["miou"] > 0.8
    assert report["steps"] == 24
    card = read_card(report["path"])
    assert card.class_names == ("land", "building")
    assert (card.backbone, card.head, card.gsd_m) == ("resnet10t", "fpn", None)
    assert card.training["data"][0]["name"] == "squares"
    assert card.metrics[0]["miou"] == report["scores"]["squares"]["miou"]
    assert card.metrics[0]["command"].startswith("lemevit eval w.safetensors")


def test_the_weights_load_into_the_model_of_their_card(trained):
    state, card = load_weights(trained[1]["path"])
    model = load_network("seg").build_model(card)
    model.load_state_dict(state)
    assert sum(p.numel() for p in model.parameters()) == trained[1]["parameters"]


def test_other_dtypes_are_measured_and_their_pixel_size_is_kept(
    tmp_path, write_data, options_of, data_of
):
    data = write_data(tmp_path / "deep", dtype="uint16")
    report = train("seg", data_of(data), str(tmp_path / "w.safetensors"), options_of(steps=2))
    card = read_card(report["path"])
    assert card.dtype == "uint16"
    assert 0 < card.mean[0] < 210 and card.std[0] > 10
    assert card.gsd_m == pytest.approx((0.5, 0.5), rel=1e-2)


def test_sources_that_know_other_classes_train_one_model(tmp_path, write_data, options_of, data_of):
    full = write_data(tmp_path / "full", classes=("land", "building"))
    some = write_data(tmp_path / "some", classes=("background", "building"))
    report = train("seg", data_of(full, some), str(tmp_path / "w.safetensors"), options_of(steps=2))
    assert report["classes"] == ["land", "building"]
    assert set(report["best"]["figures"]["some"]["classes"]) == {"background", "building"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"decoder": "deeplab"}, WeightsError, "no decoder 'deeplab'"),
        ({"backbone": "lemevit_huge"}, WeightsError, "no backbone 'lemevit_huge'"),
        (
            {"backbone": "lemevit_tiny", "pretrained": True},
            WeightsError,
            "has no weights of backbone 'lemevit_tiny'; leave out --pretrained, or .* --init$",
        ),
        ({"optimizer": "adamz"}, LemevitError, "no optimizer 'adamz'"),
        ({"loss": "ce+dies"}, DataError, "no loss 'dies'"),
        ({"init": "nothing.safetensors"}, WeightsError, "nothing.safetensors: no such weights"),
    ],
)
def test_wrong_options_are_told_before_the_data_are_opened(
    tmp_path, changes, error, message, options_of, data_of
):
    data, options = data_of(str(tmp_path / "no data")), options_of(**changes)
    for act in (
        lambda: train("seg", data, str(tmp_path / "w.safetensors"), options),
        lambda: show_samples("seg", data, options, str(tmp_path / "samples.png")),
    ):
        with pytest.raises(error, match=message) as raised:
            act()
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_resume_of_nothing_begins_anew_and_says_so(
    tmp_path, trained, write_data, options_of, data_of
):
    data, target, remarks = trained[0], tmp_path / "w.safetensors", Collector()
    options = options_of(steps=2, resume=True)
    report = train("seg", data_of(data), str(target), options, remarks)
    assert report["steps"] == 2
    (note,) = [n for n in remarks.notes if "begins anew" in n]
    assert note.startswith(f"{tmp_path / 'w_training'}: no checkpoint")
    # Finished weights are no leftover: without a checkpoint they are not replaced unasked.
    shutil.rmtree(tmp_path / "w_training")
    with pytest.raises(OutputError, match="exists; replace it with --overwrite"):
        train("seg", data_of(data), str(target), options)


def test_weights_of_an_earlier_run_never_pass_for_those_of_this_one(
    tmp_path, trained, write_data, options_of, data_of, monkeypatch
):
    folder = tmp_path / "w_training"
    folder.mkdir()
    shutil.copy(trained[1]["path"], folder / "best.safetensors")
    for name in ("checkpoint.pt", "report.png", "metrics.jsonl"):
        (folder / name).write_text('{"step": 1, "score": 1.25}\n')
    data, target = data_of(write_data(tmp_path / "data")), tmp_path / "w.safetensors"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "save_weights", full)
    with pytest.raises(OutputError, match="no weights could be kept in 2 steps") as raised:
        train("seg", data, str(target), options_of(steps=2, checkpoint_every=9, overwrite=True))
    assert "\n" not in str(raised.value)
    assert not target.exists()
    assert sorted(path.name for path in folder.glob("[!e]*")) == ["checkpoint.pt", "metrics.jsonl"]
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 2
    assert "1.25" not in (folder / "metrics.jsonl").read_text()
    monkeypatch.undo()  # there is room again
    report = train("seg", data, str(target), options_of(steps=2, resume=True))
    assert report["best"]["step"] == 2 and target.exists()


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_one_of_several_processes_speaks_and_draws(
    tmp_path, trained, options_of, data_of, monkeypatch, rank, speaks
):
    notes = []

    class Noted(Silent):
        def note(self, message):
            notes.append(message)

    def stop(*_, **__):
        raise LemevitError("no step is needed")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(training, "fit", stop)
    data, options = data_of(trained[0]), options_of(init=trained[1]["path"])
    with pytest.raises(LemevitError, match="no step"):
        train("seg", data, str(tmp_path / "w.safetensors"), options, Noted())
    assert any("taken over from" in note for note in notes) == bool(notes) == speaks
    show_samples("seg", data, options, str(tmp_path / "samples.png"), Noted())
    assert (tmp_path / "samples.png").exists() == speaks


def test_a_resume_may_draw_its_samples_again(tmp_path, trained, options_of, data_of):
    picture = tmp_path / "samples.png"
    picture.write_bytes(b"old")
    data = data_of(trained[0])
    with pytest.raises(OutputError, match="exists; replace it with --overwrite"):
        show_samples("seg", data, options_of(), str(picture))
    show_samples("seg", data, options_of(resume=True), str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("is_native", "precision"), [(False, "bf16"), (True, "bf16"), (False, "fp32")]
)
def test_arithmetic_that_is_emulated_is_warned_of(
    tmp_path, write_data, options_of, data_of, monkeypatch, is_native, precision
):
    monkeypatch.setattr(training, "multiplies_bf16", lambda: is_native)
    remarks = Collector()
    data, options = data_of(write_data(tmp_path / "data")), options_of(precision=precision)
    show_samples("seg", data, options, str(tmp_path / "samples.png"), remarks)
    told = any("only emulates bf16" in line for line in remarks.warnings)
    assert told == (not is_native and precision == "bf16")


def test_a_weight_too_many_is_told(tmp_path, write_data, options_of, data_of):
    data = data_of(write_data(tmp_path / "data"), source_weights=(1.0, 2.0))
    with pytest.raises(DataError, match="2 weights for 1 data sets"):
        train("seg", data, str(tmp_path / "w.safetensors"), options_of())


def test_wrong_targets_are_told_before_any_step(tmp_path, write_data, options_of, data_of):
    data = write_data(tmp_path / "data")
    with pytest.raises(OutputError, match=r"weights are written as \.safetensors"):
        train("seg", data_of(data), str(tmp_path / "w.pt"), options_of())
    with pytest.raises(OutputError, match="does not exist; create it first"):
        train("seg", data_of(data), str(tmp_path / "no" / "w.safetensors"), options_of())
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(OutputError, match="exists; replace it with --overwrite"):
        train("seg", data_of(data), str(tmp_path / "w.safetensors"), options_of())


def test_a_missing_validation_split_and_unknown_data_are_told(
    tmp_path, write_data, options_of, data_of
):
    data = write_data(tmp_path / "data", splits=("train",))
    with pytest.raises(DataError, match="val/images: no such folder"):
        train("seg", data_of(data), str(tmp_path / "w.safetensors"), options_of())
    with pytest.raises(LemevitError, match="no task 'sag'"):
        train("sag", data_of(data), str(tmp_path / "w.safetensors"), options_of())


def test_class_ids_follow_those_of_the_weights_to_begin_from(
    tmp_path, trained, write_data, options_of, data_of
):
    # Of the trained weights: land, building.
    data = data_of(write_data(tmp_path / "turned", classes=("building", "land")))
    task = load_training("seg")
    assert task.open_data(data, options_of()).card.class_names == ("building", "land")
    begun = options_of(init=trained[1]["path"])
    found = task.open_data(data, begun)
    assert found.card.class_names == ("land", "building")
    # Targets go by name: an id of the source stands for its own class of the model.
    sample = found.training.samples[0]
    assert sample["groups"].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.safetensors"])
def test_what_an_earlier_run_has_left_is_not_replaced_unasked(tmp_path, options_of, data_of, name):
    left = tmp_path / "w_training" / name
    left.parent.mkdir()
    left.write_bytes(b"hours of work")
    with pytest.raises(OutputError, match=f"{name} is of an earlier run.*--resume.*--overwrite"):
        train("seg", data_of("no data"), str(tmp_path / "w.safetensors"), options_of())
    assert left.read_bytes() == b"hours of work"
    assert list(tmp_path.iterdir()) == [left.parent]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": "lake=2"}, "lake"),
        ({"batch_size": 1, "decoder": "upernet"}, "--batch-size of at least 2"),
        ({"resume": True, "lr": 0.5}, r"made with lr .*, but 0\.5 is given"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_nothing_is_told_before_what_is_refused(
    tmp_path, write_data, options_of, data_of, changes, message, request
):
    target, remarks = tmp_path / "w.safetensors", Collector()
    if "resume" in changes:
        folder, report = request.getfixturevalue("trained")
        shutil.copytree(training.training_folder(Path(report["path"])), tmp_path / "w_training")
    else:
        folder = write_data(tmp_path / "data")
    with pytest.raises(LemevitError, match=message):
        train("seg", data_of(folder), str(target), options_of(**changes), remarks)
    assert (remarks.notes, remarks.warnings) == ([], [])
    assert not target.exists()


def test_weights_of_a_handful_of_steps_are_said_to_be_useless(
    tmp_path, trained, options_of, data_of
):
    for steps, count in ((3, 1), (20, 0)):
        target, remarks = str(tmp_path / f"{steps}.safetensors"), Collector()
        train("seg", data_of(trained[0]), target, options_of(steps=steps), remarks)
        lines = [line for line in remarks.warnings if "useless" in line]
        assert len(lines) == count
        assert all(line.startswith(f"{target}: weights of {steps} steps") for line in lines)


def test_a_budget_without_time_for_the_scoring_says_how_to_score(
    tmp_path, trained, options_of, data_of, monkeypatch
):
    monkeypatch.setattr(training, "evaluate_source", lambda *_, **__: pytest.fail("is scored"))
    target, remarks = str(tmp_path / "w.safetensors"), Collector()
    options = options_of(time_budget_s=30.0)
    # Data that took a minute to open leave time for one step, and for nothing behind it.
    report = train("seg", data_of(trained[0]), target, options, remarks, spent_s=60.0)
    assert (report["steps"], report["scores"], report["best"]["figures"]) == (1, {}, None)
    assert read_card(target).metrics == ()
    (line,) = [line for line in remarks.warnings if "lemevit eval" in line]
    assert line.startswith("scoring all that was held back would take ") and "\n" not in line


def test_a_score_names_the_folder_that_it_is_of(options_of, data_of, tmp_path):
    folders = [str(tmp_path / part / "my towns") for part in "ab"]
    scores = {"my towns": {"miou": 0.5}, "my towns (2)": {"miou": 0.7}, "scene": {"miou": 0.9}}
    target, options = tmp_path / "w.safetensors", options_of(steps=1)
    found = training._metrics(scores, ["miou"], target, DataOptions(paths=tuple(folders)), options)
    assert [figures["command"] for figures in found] == [
        f"lemevit eval w.safetensors '{folders[0]}' --precision fp32",
        f"lemevit eval w.safetensors '{folders[1]}' --precision fp32",
        "lemevit train -o w.safetensors, on what it held back",
    ]
