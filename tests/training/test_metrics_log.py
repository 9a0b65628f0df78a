import json

import pytest

from lemevit_cli.training.metrics_log import METRICS_NAME, MetricsLog, read_metrics


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / METRICS_NAME).read_text().splitlines()]


def test_losses_are_averaged_over_the_steps_between_two_lines(tmp_path):
    log = MetricsLog(tmp_path, first_step=0, warn=pytest.fail)
    for step in range(1, 13):
        log.step(step, 0.5 * step, loss=float(step), lr=0.1, last=step == 12)
    log.close()
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 5.5, "lr": 0.1, "elapsed_s": 5.0},
        {"step": 12, "loss": 11.5, "lr": 0.1, "elapsed_s": 6.0},
    ]


def test_lines_of_lost_steps_and_half_lines_are_dropped(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / METRICS_NAME).write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"ste')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    MetricsLog(tmp_path, first_step=20, warn=pytest.fail)
    assert steps_in(tmp_path) == [10, 20]
    MetricsLog(tmp_path, first_step=0, warn=pytest.fail)
    assert steps_in(tmp_path) == []


def test_metrics_that_cannot_be_written_are_told(tmp_path):
    said = []
    (tmp_path / METRICS_NAME).mkdir()
    log = MetricsLog(tmp_path, first_step=0, warn=said.append)
    log.validation(3, score=0.5, figures={})
    assert len(said) == 2 and "could not be written (Is a directory)" in said[1]


def test_tensorboard_shows_losses_and_scores(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, first_step=0, warn=pytest.fail)
    log.step(10, 1.0, loss=0.25, lr=0.1, last=True)
    log.validation(10, score=0.5, figures={"town": {"miou": 0.75, "classes": {"road": {}}}})
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert shown == {
        "loss": 0.25,
        "lr": pytest.approx(0.1),
        "score": 0.5,
        "town/miou": 0.75,
    }
