import pytest

from lemevit_cli.commands.figures import print_scores
from lemevit_cli.errors import LemevitError
from lemevit_cli.tasks import TASKS, Room, load_network, load_simulation


def test_a_part_that_a_task_lacks_is_named_with_those_that_have_it(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", Room("lemevit_cli.tasks.backbone", "predict", "none"))
    with pytest.raises(LemevitError, match="task toy has no simulation; those of seg, det, change"):
        load_simulation("toy")
    with pytest.raises(LemevitError, match="no task 'boxes'; tasks are seg, det, change, cls, toy"):
        load_network("boxes")


def test_figures_of_a_task_without_a_table_are_printed(capsys):
    print_scores("toy", {"top1": 0.5, "classes": {"farm": {"f1": 0.25}}}, to_stderr=False)
    assert "farm" in (text := capsys.readouterr().out) and "0.250" in text
