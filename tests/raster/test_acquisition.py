import pytest
import rasterio

from lemevit_cli.raster.acquisition import date_of
from lemevit_cli.raster.scene import open_scene


@pytest.mark.parametrize(
    ("tags", "imagery", "expected"),
    [
        ({}, {}, None),
        ({"TIFFTAG_DATETIME": "2016:08:09 10:11:12"}, {}, "2016-08-09"),
        ({"ACQUISITION_DATE": "20170304"}, {}, "2017-03-04"),
        ({"ACQUISITIONDATETIME": "2018-05-06T07:08:09Z"}, {}, "2018-05-06"),
        ({"TIFFTAG_DATETIME": "2024:01:01 00:00:00", "Acquisition_Date": "2019/02/03"}, {},
         "2019-02-03"),
        ({"TIFFTAG_DATETIME": "2024:01:01 00:00:00"},
         {"ACQUISITIONDATETIME": "2020-10-11 12:13:14"}, "2020-10-11"),
        ({"TIFFTAG_DATETIME": "yesterday"}, {}, None),
        ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, {}, None),
        ({"ACQUISITION_MODE": "20170304999"}, {}, None),
    ],
)  # fmt: skip
def test_the_day_is_the_acquisitions_before_the_files(scene, tags, imagery, expected):
    with rasterio.open(scene, "r+") as file:
        file.update_tags(**tags)
        file.update_tags(ns="IMAGERY", **imagery)
    with open_scene(scene) as opened:
        assert date_of(opened) == expected
