import numpy as np
import pytest
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.pictures.score_picture import row_shares, write_score_picture


@pytest.mark.parametrize("number", [2, 20])
@pytest.mark.parametrize("shape", [(40, 60), (300, 20)])
def test_the_picture_shows_classes_and_errors(tmp_path, number, shape):
    classes = classes_from_names([f"class {i}" for i in range(number)])
    truth = np.zeros(shape, np.uint8)
    found = np.zeros(shape, np.uint8)
    found[: shape[0] // 2] = 1
    truth[-5:] = found[-5:] = 255
    counts = np.eye(number, number + 1, dtype=int)
    write_score_picture(tmp_path / "s.png", truth, found, counts, classes, caption="a caption")
    picture = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).reshape(-1, 3)
    colors = {tuple(c) for c in np.unique(picture, axis=0).tolist()}
    assert {classes[0].color, classes[1].color, (178, 24, 43), (200, 214, 200)} <= colors


def test_rows_are_parts_of_their_sum():
    shares = row_shares(np.array([[3, 1, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(shares[0], [0.75, 0.25, 0])
    assert np.isnan(shares[1]).all()
