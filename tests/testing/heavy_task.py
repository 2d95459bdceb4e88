"""A task whose module imports torch."""

import torch

from tests.testing.toy_task import Sound


class Heavy(Sound):
    """Sound but for what it costs to look at."""

    device = torch.device("cpu")
