"""A data set of its own module, so that worker processes can load it."""

import torch
from torch.utils.data import Dataset

from lemevit_cli.errors import DataError


class HalfBroken(Dataset):
    """Samples of which number 4 and all behind it cannot be read."""

    def __getitem__(self, index):
        if index > 3:
            raise DataError("scene.tif: half a file; copy it again")
        return {"number": torch.tensor(index)}
